package podspec

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func TestQoS(t *testing.T) {
	const all, less = "{requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 1, memory: 1Gi}}", "{requests: {cpu: 1}}"
	cases := []struct {
		name, spec string
		want       v1.PodQOSClass
	}{
		{"nothing", "{containers: [{name: a}]}", v1.PodQOSBestEffort},
		{"requests", "{containers: [{name: a, resources: " + less + "}]}", v1.PodQOSBurstable},
		{"all limited", "{containers: [{name: a, resources: " + all + "}]}", v1.PodQOSGuaranteed},
		{"limits are requests", "{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}}}]}", v1.PodQOSGuaranteed},
		{"one is not limited", "{containers: [{name: a, resources: " + all + "}, {name: b}]}", v1.PodQOSBurstable},
		{"nor an init container", "{initContainers: [{name: i}], containers: [{name: a, resources: " + all + "}]}", v1.PodQOSBurstable},
		{"ephemeral containers do not count", "{ephemeralContainers: [{name: e}], containers: [{name: a, resources: " + all + "}]}", v1.PodQOSGuaranteed},
		{"other resources do not count", "{containers: [{name: a, resources: {limits: {example.com/card: 1}}}]}", v1.PodQOSBestEffort},
		{"the pod decides", "{resources: " + all + ", containers: [{name: a}, {name: b, resources: " + less + "}]}", v1.PodQOSGuaranteed},
		{"the pod decides, less", "{resources: " + less + ", containers: [{name: a, resources: " + all + "}]}", v1.PodQOSBurstable},
		{"an empty list of the pod decides nothing", "{resources: {}, containers: [{name: a, resources: " + all + "}]}", v1.PodQOSGuaranteed},
	}
	for _, c := range cases {
		pod := &v1.Pod{}
		if err := yaml.UnmarshalStrict([]byte(c.spec), &pod.Spec); err != nil {
			t.Fatal(c.name, err)
		}
		if got := QoS(pod); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
