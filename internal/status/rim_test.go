package status_test

import (
	"kubelet/internal/apiclient"
	"kubelet/internal/criconfig"
	"kubelet/internal/lifecycle"
	"kubelet/internal/status"
)

// What the neighbours ask for is what is offered.
var (
	_ lifecycle.Statuses  = (*status.Writer)(nil)
	_ lifecycle.Events    = (*status.Recorder)(nil)
	_ lifecycle.Configs   = (*criconfig.Builder)(nil)
	_ criconfig.Events    = (*status.Recorder)(nil)
	_ criconfig.Objects   = (*apiclient.Objects)(nil)
	_ criconfig.Services  = (*apiclient.Services)(nil)
	_ status.Client       = (*apiclient.Client)(nil)
	_ status.MirrorClient = (*apiclient.Client)(nil)
	_ status.EventClient  = (*apiclient.Client)(nil)

	_ criconfig.RuntimeClasses = (*apiclient.RuntimeClasses)(nil)
)
