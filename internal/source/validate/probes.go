package validate

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *check) hooksAndProbes(ctr *v1.Container, p *field.Path) {
	if l := ctr.Lifecycle; l != nil {
		at := p.Child("lifecycle")
		if h := l.PostStart; h != nil {
			c.handler(handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, at.Child("postStart"))
		}
		if h := l.PreStop; h != nil {
			c.handler(handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, at.Child("preStop"))
		}
		if l.StopSignal != nil {
			c.stopSignal(*l.StopSignal, at.Child("stopSignal"))
		}
	}
	if probe := ctr.LivenessProbe; probe != nil {
		c.probe(probe, p.Child("livenessProbe"))
		c.succeedsOnce(probe, p.Child("livenessProbe"))
	}
	if probe := ctr.StartupProbe; probe != nil {
		c.probe(probe, p.Child("startupProbe"))
		c.succeedsOnce(probe, p.Child("startupProbe"))
	}
	if probe := ctr.ReadinessProbe; probe != nil {
		c.probe(probe, p.Child("readinessProbe"))
		if probe.TerminationGracePeriodSeconds != nil {
			c.forbidden(p.Child("readinessProbe", "terminationGracePeriodSeconds"), "a readiness probe ends nothing; remove it")
		}
	}
}

func (c *check) succeedsOnce(probe *v1.Probe, p *field.Path) {
	if probe.SuccessThreshold != 1 {
		c.invalid(p.Child("successThreshold"), probe.SuccessThreshold, "must be 1")
	}
}

func (c *check) probe(probe *v1.Probe, p *field.Path) {
	c.handler(handler{probe.Exec, probe.HTTPGet, probe.TCPSocket, probe.GRPC, nil}, p)
	for _, n := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", probe.InitialDelaySeconds},
		{"timeoutSeconds", probe.TimeoutSeconds},
		{"periodSeconds", probe.PeriodSeconds},
		{"successThreshold", probe.SuccessThreshold},
		{"failureThreshold", probe.FailureThreshold},
	} {
		if n.value < 0 {
			c.invalid(p.Child(n.name), n.value, "must not be negative")
		}
	}
	if s := probe.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		c.invalid(p.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0")
	}
}

// handler is what a probe or hook does; exactly one is set.
type handler struct {
	exec  *v1.ExecAction
	http  *v1.HTTPGetAction
	tcp   *v1.TCPSocketAction
	grpc  *v1.GRPCAction
	sleep *v1.SleepAction
}

func (c *check) handler(h handler, p *field.Path) {
	kinds := 0
	if h.exec != nil {
		kinds++
		if len(h.exec.Command) == 0 {
			c.required(p.Child("exec", "command"), "")
		}
	}
	if h.http != nil {
		kinds++
		c.httpGet(h.http, p.Child("httpGet"))
	}
	if h.tcp != nil {
		kinds++
		c.portOrName(h.tcp.Port, p.Child("tcpSocket", "port"))
	}
	if h.grpc != nil {
		kinds++
		c.portOrName(intstr.FromInt32(h.grpc.Port), p.Child("grpc", "port"))
		oneOfPtr(c, p.Child("grpc", "mode"), h.grpc.Mode, v1.GRPCProbeModePlaintext, v1.GRPCProbeModeTLS)
	}
	if h.sleep != nil {
		kinds++
		if grace := c.spec.TerminationGracePeriodSeconds; grace != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *grace) {
			c.invalid(p.Child("sleep", "seconds"), h.sleep.Seconds, fmt.Sprintf("must be between 0 and terminationGracePeriodSeconds (%d)", *grace))
		}
	}
	switch {
	case kinds == 0:
		c.required(p, "must say what to do: exec, httpGet, tcpSocket or another handler")
	case kinds > 1:
		c.forbidden(p, "may have only one handler")
	}
}

func (c *check) httpGet(get *v1.HTTPGetAction, p *field.Path) {
	c.nonEmpty(p.Child("path"), get.Path)
	c.portOrName(get.Port, p.Child("port"))
	oneOf(c, p.Child("scheme"), get.Scheme, v1.URISchemeHTTP, v1.URISchemeHTTPS)
	for i, h := range get.HTTPHeaders {
		c.all(p.Child("httpHeaders").Index(i).Child("name"), h.Name, validation.IsHTTPHeaderName(h.Name))
	}
	if get.Protocol == nil {
		return
	}
	if oneOf(c, p.Child("protocol"), *get.Protocol, v1.HTTPProtocolHTTP1, v1.HTTPProtocolHTTP2) && *get.Protocol == v1.HTTPProtocolHTTP2 {
		if get.Scheme != v1.URISchemeHTTP {
			c.invalid(p.Child("protocol"), *get.Protocol, "goes with scheme HTTP only")
		}
		if get.Host != "" {
			c.invalid(p.Child("host"), get.Host, "must be empty with protocol HTTP2")
		}
	}
}

func (c *check) portOrName(port intstr.IntOrString, p *field.Path) {
	if port.Type == intstr.Int {
		c.all(p, port.IntVal, validation.IsValidPortNum(int(port.IntVal)))
	} else {
		c.all(p, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
}

// stopSignal checks a container's own stop signal (KEP-4960). It is only
// known to be right where the pod says which system it is for.
func (c *check) stopSignal(signal v1.Signal, p *field.Path) {
	switch {
	case c.spec.OS == nil:
		c.forbidden(p, "needs spec.os.name to be set")
	case c.spec.OS.Name == v1.Windows:
		oneOf(c, p, signal, v1.SIGKILL, v1.SIGTERM)
	case c.spec.OS.Name == v1.Linux && !linuxSignal(signal):
		c.invalid(p, signal, "is not a signal of Linux, such as SIGTERM or SIGRTMIN+3")
	}
}

func linuxSignal(signal v1.Signal) bool {
	switch signal {
	case v1.SIGABRT, v1.SIGALRM, v1.SIGBUS, v1.SIGCHLD, v1.SIGCLD, v1.SIGCONT, v1.SIGFPE, v1.SIGHUP, v1.SIGILL,
		v1.SIGINT, v1.SIGIO, v1.SIGIOT, v1.SIGKILL, v1.SIGPIPE, v1.SIGPOLL, v1.SIGPROF, v1.SIGPWR, v1.SIGQUIT,
		v1.SIGSEGV, v1.SIGSTKFLT, v1.SIGSTOP, v1.SIGSYS, v1.SIGTERM, v1.SIGTRAP, v1.SIGTSTP, v1.SIGTTIN, v1.SIGTTOU,
		v1.SIGURG, v1.SIGUSR1, v1.SIGUSR2, v1.SIGVTALRM, v1.SIGWINCH, v1.SIGXCPU, v1.SIGXFSZ, v1.SIGRTMIN, v1.SIGRTMAX:
		return true
	}
	for i := 1; i <= 15; i++ {
		if signal == v1.Signal(fmt.Sprintf("SIGRTMIN+%d", i)) || (i < 15 && signal == v1.Signal(fmt.Sprintf("SIGRTMAX-%d", i))) {
			return true
		}
	}
	return false
}
