package volume

// SetFault has f called at each step of the reconciler's work. An error ends
// the work there, as a SIGKILL would.
func (r *Reconciler) SetFault(f func(verb, path string) error) { r.fault = f }
