// Package standalone is `kubelet standalone`: a kubelet for one machine with
// a private containerd and static pods, without a control plane. It owns the
// containerd process (runtime.go), its configuration and network
// (configure.go) and what a person sees in the terminal (table.go). Plain
// `kubelet` never starts a runtime.
//
// The containerd process has a process group and a cgroup of its own, so it
// and the pods outlive a kubelet that is killed; the next start adopts it. A
// clean exit ends the pods, then the runtime.
package standalone
