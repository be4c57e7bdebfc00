package validate

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *check) containers(spec *field.Path) {
	if len(c.spec.Containers) == 0 {
		c.required(spec.Child("containers"), "a pod needs at least one container")
	}
	names := map[string]bool{}
	hostPorts := map[string]bool{}
	for i := range c.spec.Containers {
		ctr, p := &c.spec.Containers[i], spec.Child("containers").Index(i)
		if names[ctr.Name] {
			c.duplicate(p.Child("name"), ctr.Name)
		}
		names[ctr.Name] = true
		c.container(ctr, p)
		c.uniqueHostPorts(ctr, p, hostPorts)
		c.hooksAndProbes(ctr, p)
		if c.o.ContainerRestartRules {
			c.containerRestart(ctr, p)
		} else if ctr.RestartPolicy != nil {
			c.forbidden(p.Child("restartPolicy"), "may only be set for init containers")
		}
	}
	for i := range c.spec.InitContainers {
		ctr, p := &c.spec.InitContainers[i], spec.Child("initContainers").Index(i)
		if ctr.Name != "" && names[ctr.Name] {
			c.duplicate(p.Child("name"), ctr.Name)
		}
		names[ctr.Name] = true
		c.container(ctr, p)
		// Init containers run one after another, so only each one's own host
		// ports can collide.
		c.uniqueHostPorts(ctr, p, map[string]bool{})
		c.initContainer(ctr, p)
	}
}

// container checks what holds for each kind of container.
func (c *check) container(ctr *v1.Container, p *field.Path) {
	if c.nonEmpty(p.Child("name"), ctr.Name) {
		c.all(p.Child("name"), ctr.Name, validation.IsDNS1123Label(ctr.Name))
	}
	if c.nonEmpty(p.Child("image"), ctr.Image) && strings.TrimSpace(ctr.Image) != ctr.Image {
		c.invalid(p.Child("image"), ctr.Image, "must not begin or end with white space")
	}
	oneOf(c, p.Child("imagePullPolicy"), ctr.ImagePullPolicy, v1.PullAlways, v1.PullIfNotPresent, v1.PullNever)
	oneOf(c, p.Child("terminationMessagePolicy"), ctr.TerminationMessagePolicy, v1.TerminationMessageReadFile, v1.TerminationMessageFallbackToLogsOnError)
	c.ports(ctr.Ports, p.Child("ports"))
	c.env(ctr.Env, p.Child("env"))
	c.mounts(ctr, p.Child("volumeMounts"))
	c.resources(p.Child("resources"), &ctr.Resources, containerResource)
	c.resizePolicy(ctr.ResizePolicy, p.Child("resizePolicy"))
	c.containerSecurity(ctr, p.Child("securityContext"))
}

func (c *check) initContainer(ctr *v1.Container, p *field.Path) {
	sidecar := ctr.RestartPolicy != nil && *ctr.RestartPolicy == v1.ContainerRestartPolicyAlways
	switch {
	case ctr.RestartPolicy == nil && len(ctr.RestartPolicyRules) > 0:
		c.required(p.Child("restartPolicy"), "must be set where restartPolicyRules are")
	case ctr.RestartPolicy == nil:
	case !c.o.ContainerRestartRules:
		oneOfPtr(c, p.Child("restartPolicy"), ctr.RestartPolicy, v1.ContainerRestartPolicyAlways)
	case sidecar && !c.o.RestartAllContainersOnContainerExits:
		if len(ctr.RestartPolicyRules) > 0 {
			c.forbidden(p.Child("restartPolicyRules"), "may not be set for init containers of restartPolicy Always")
		}
	default:
		c.containerRestart(ctr, p)
	}
	if sidecar {
		c.hooksAndProbes(ctr, p)
	} else {
		const onlySidecar = "may only be set for init containers of restartPolicy Always"
		if ctr.Lifecycle != nil {
			c.forbidden(p.Child("lifecycle"), onlySidecar)
		}
		if ctr.LivenessProbe != nil {
			c.forbidden(p.Child("livenessProbe"), onlySidecar)
		}
		if ctr.ReadinessProbe != nil {
			c.forbidden(p.Child("readinessProbe"), onlySidecar)
		}
		if ctr.StartupProbe != nil {
			c.forbidden(p.Child("startupProbe"), onlySidecar)
		}
		for i, r := range ctr.ResizePolicy {
			if r.RestartPolicy == v1.RestartContainer {
				c.invalid(p.Child("resizePolicy").Index(i).Child("restartPolicy"), r.RestartPolicy, "an init container that runs once cannot be restarted to resize it")
			}
		}
	}
	if !c.o.InPlacePodVerticalScaling && len(ctr.ResizePolicy) > 0 {
		c.forbidden(p.Child("resizePolicy"), "may not be set for init containers")
	}
}

// containerRestart checks a container's own restart policy and rules
// (KEP-5307).
func (c *check) containerRestart(ctr *v1.Container, p *field.Path) {
	if ctr.RestartPolicy == nil {
		if len(ctr.RestartPolicyRules) == 0 {
			return
		}
		c.required(p.Child("restartPolicy"), "must be set where restartPolicyRules are")
	}
	oneOfPtr(c, p.Child("restartPolicy"), ctr.RestartPolicy, v1.ContainerRestartPolicyAlways, v1.ContainerRestartPolicyNever, v1.ContainerRestartPolicyOnFailure)
	rules := p.Child("restartPolicyRules")
	if n := len(ctr.RestartPolicyRules); n > 20 {
		c.errs = append(c.errs, field.TooMany(rules, n, 20))
	}
	actions := []v1.ContainerRestartRuleAction{v1.ContainerRestartRuleActionRestart}
	if c.o.RestartAllContainersOnContainerExits {
		actions = append(actions, v1.ContainerRestartRuleActionRestartAllContainers)
	}
	for i, r := range ctr.RestartPolicyRules {
		at := rules.Index(i)
		oneOf(c, at.Child("action"), r.Action, actions...)
		if r.ExitCodes == nil {
			c.required(at.Child("exitCodes"), "")
			continue
		}
		oneOf(c, at.Child("exitCodes", "operator"), r.ExitCodes.Operator, v1.ContainerRestartRuleOnExitCodesOpIn, v1.ContainerRestartRuleOnExitCodesOpNotIn)
		if n := len(r.ExitCodes.Values); n > 255 {
			c.errs = append(c.errs, field.TooMany(at.Child("exitCodes", "values"), n, 255))
		}
	}
}

func (c *check) ports(ports []v1.ContainerPort, p *field.Path) {
	names := map[string]bool{}
	for i, port := range ports {
		at := p.Index(i)
		if port.Name != "" {
			if messages := validation.IsValidPortName(port.Name); len(messages) > 0 {
				c.all(at.Child("name"), port.Name, messages)
			} else if names[port.Name] {
				c.duplicate(at.Child("name"), port.Name)
			}
			names[port.Name] = true
		}
		if port.ContainerPort == 0 {
			c.required(at.Child("containerPort"), "")
		} else {
			c.all(at.Child("containerPort"), port.ContainerPort, validation.IsValidPortNum(int(port.ContainerPort)))
		}
		if port.HostPort != 0 {
			c.all(at.Child("hostPort"), port.HostPort, validation.IsValidPortNum(int(port.HostPort)))
		}
		oneOf(c, at.Child("protocol"), port.Protocol, v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP)
	}
}

// uniqueHostPorts finds ports of the node that are asked for twice; seen
// holds those of the containers before.
func (c *check) uniqueHostPorts(ctr *v1.Container, p *field.Path, seen map[string]bool) {
	for i, port := range ctr.Ports {
		if port.HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
		if seen[key] {
			c.duplicate(p.Child("ports").Index(i).Child("hostPort"), key)
		}
		seen[key] = true
	}
}

func (c *check) resizePolicy(list []v1.ContainerResizePolicy, p *field.Path) {
	seen := map[v1.ResourceName]bool{}
	for i, r := range list {
		at := p.Index(i)
		if seen[r.ResourceName] {
			c.duplicate(at.Child("resourceName"), r.ResourceName)
		}
		seen[r.ResourceName] = true
		oneOf(c, at.Child("resourceName"), r.ResourceName, v1.ResourceCPU, v1.ResourceMemory)
		oneOf(c, at.Child("restartPolicy"), r.RestartPolicy, v1.NotRequired, v1.RestartContainer)
		if c.spec.RestartPolicy == v1.RestartPolicyNever && r.RestartPolicy != v1.NotRequired {
			c.invalid(at.Child("restartPolicy"), r.RestartPolicy, "must be NotRequired in a pod of restartPolicy Never")
		}
	}
}
