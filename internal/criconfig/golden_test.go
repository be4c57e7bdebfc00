package criconfig

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"kubelet/internal/podspec"
	"kubelet/internal/volume"
)

var update = flag.Bool("update", false, "write the golden files anew")

// cluster is the API objects of one test file, and what is known of images.
type cluster struct {
	pod        *v1.Pod
	configMaps map[string]*v1.ConfigMap
	secrets    map[string]*v1.Secret
	services   []*v1.Service
	unsynced   bool
	events     []string
	imageUID   *int64
	imageUser  string
	err        error // of reading objects
	oldRuntime bool  // that can do nothing special
	handlerErr error
	nodeEvents []string
	swap       *Swap // of the node; nil for none but its controller
	v1         bool  // cgroup version 1
}

func (c *cluster) ConfigMap(_ context.Context, ns, name string) (*v1.ConfigMap, error) {
	if o := c.configMaps[ns+"/"+name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (c *cluster) Secret(_ context.Context, ns, name string) (*v1.Secret, error) {
	if c.err != nil {
		return nil, c.err
	}
	if o := c.secrets[ns+"/"+name]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (c *cluster) Services(ns string) (list []*v1.Service, synced bool) {
	for _, s := range c.services {
		if s.Namespace == ns {
			list = append(list, s)
		}
	}
	return list, !c.unsynced
}

func (c *cluster) RuntimeClass(_ context.Context, class string) (string, error) {
	if class == "gvisor" {
		return "runsc", nil
	}
	return "", apierrors.NewNotFound(schema.GroupResource{Resource: "runtimeclasses"}, class)
}

func (c *cluster) ImageUser(context.Context, string) (*int64, string, error) {
	if c.imageUID == nil && c.imageUser == "" {
		return new(int64), "", nil
	}
	return c.imageUID, c.imageUser, nil
}

func (c *cluster) Event(_ *v1.Pod, _, eventType, reason, message string) {
	c.events = append(c.events, fmt.Sprintf("%s %s %s", eventType, reason, message))
}

func (c *cluster) NodeEvent(reason, message string) {
	c.nodeEvents = append(c.nodeEvents, reason+" "+message)
}

func (c *cluster) Handler(_ context.Context, name string) (HandlerFeatures, error) {
	if c.handlerErr != nil {
		return HandlerFeatures{}, c.handlerErr
	}
	return HandlerFeatures{RecursiveReadOnly: !c.oldRuntime, UserNamespaces: !c.oldRuntime && name == ""}, nil
}

func load(t *testing.T, content []byte) *cluster {
	t.Helper()
	c := &cluster{configMaps: map[string]*v1.ConfigMap{}, secrets: map[string]*v1.Secret{}}
	for _, doc := range strings.Split(string(content), "\n---\n") {
		var kind metav1.TypeMeta
		must(t, yaml.Unmarshal([]byte(doc), &kind))
		switch kind.Kind {
		case "Pod":
			c.pod = &v1.Pod{}
			must(t, yaml.UnmarshalStrict([]byte(doc), c.pod))
		case "ConfigMap":
			o := &v1.ConfigMap{}
			must(t, yaml.UnmarshalStrict([]byte(doc), o))
			c.configMaps[o.Namespace+"/"+o.Name] = o
		case "Secret":
			o := &v1.Secret{}
			must(t, yaml.UnmarshalStrict([]byte(doc), o))
			c.secrets[o.Namespace+"/"+o.Name] = o
		case "Service":
			o := &v1.Service{}
			must(t, yaml.UnmarshalStrict([]byte(doc), o))
			c.services = append(c.services, o)
		default:
			t.Fatalf("unknown kind %q", kind.Kind)
		}
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const resolvConf = "# the node's\nnameserver 192.168.1.1\nsearch old\nsearch lan. .\noptions timeout:1 timeout:3 rotate\n"

// node is a builder as the kubelet of a node with 4 GiB makes it.
func node(t *testing.T, c *cluster) *Builder {
	t.Helper()
	root := t.TempDir()
	must(t, os.WriteFile(filepath.Join(root, "resolv.conf"), []byte(resolvConf), 0o644))
	must(t, os.WriteFile(filepath.Join(root, "hosts"), []byte("127.0.0.1 localhost\n10.70.0.2 node-1\n"), 0o644))
	must(t, os.MkdirAll(filepath.Join(root, "seccomp/profiles"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "seccomp/profiles/audit.json"), []byte("{}"), 0o644))
	must(t, os.MkdirAll(filepath.Join(root, "sys/devices/system/cpu/cpu0/thermal_throttle"), 0o755))
	b, err := New(Config{
		Root:              root,
		PodLogsDir:        filepath.Join(root, "logs"),
		ClusterDNS:        []string{"10.96.0.10"},
		ClusterDomain:     "cluster.local",
		ResolverConfig:    filepath.Join(root, "resolv.conf"),
		CPUCFSQuota:       true,
		CPUCFSQuotaPeriod: 100 * time.Millisecond,
		CgroupV2:          true,
		Swap:              Swap{Controller: true},
		MemoryCapacity:    4 << 30,
		HugePageSizes:     []string{"1GB", "2MB"},
		SysDir:            filepath.Join(root, "sys"),
		NodeHosts:         filepath.Join(root, "hosts"),
		Objects:           c,
		Services:          c,
		RuntimeClasses:    c,
		Images:            c,
		Events:            c,
		NodeAllocatable: func() v1.ResourceList {
			return v1.ResourceList{v1.ResourceMemory: resource.MustParse("3Gi"), v1.ResourceCPU: resource.MustParse("2")}
		},
		HostIPs:   func() []string { return []string{"10.70.0.2", "fd00::2"} },
		Handler:   c.Handler,
		NodeEvent: c.NodeEvent,
		EnvFiles:  true,
		UserNamespace: func(*v1.Pod) (*runtimeapi.UserNamespace, error) {
			ids := []*runtimeapi.IDMapping{{HostId: 131072, Length: 65536}}
			return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: ids, Gids: ids}, nil
		},
	})
	must(t, err)
	if b.CgroupV2 = !c.v1; c.swap != nil {
		b.Swap = *c.swap
	}
	return b
}

func input(c *cluster, container *v1.Container, kind podspec.Kind) ContainerInput {
	in := ContainerInput{
		Pod: c.pod, Container: container, Kind: kind, Attempt: 4,
		ImageRef: "sha256:" + container.Name,
		PodIPs:   []string{"fd00:1::5", "10.244.0.5"},
		Mounts:   volume.Mounts{},
	}
	if c.pod.Spec.HostNetwork {
		in.PodIPs = []string{"10.70.0.2"}
	}
	for _, v := range c.pod.Spec.Volumes {
		in.Mounts[v.Name] = volume.Mount{Path: "/vol/" + v.Name, ReadOnly: v.Secret != nil, SELinuxRelabel: v.EmptyDir != nil}
	}
	return in
}

func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("testdata/*.yaml")
	must(t, err)
	for _, file := range cases {
		name := strings.TrimSuffix(filepath.Base(file), ".yaml")
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(file)
			must(t, err)
			c := load(t, content)
			b := node(t, c)
			b.SELinux = name == "full"
			sandbox, err := b.Sandbox(c.pod, 2, "/kubepods/pod"+string(c.pod.UID))
			must(t, err)
			golden(t, b, strings.TrimSuffix(file, ".yaml")+".sandbox.golden", message(t, sandbox), c.events)

			var configs []any
			podspec.EachContainer(c.pod, func(container *v1.Container, kind podspec.Kind) bool {
				config, err := b.Container(t.Context(), input(c, container, kind))
				must(t, err)
				configs = append(configs, readable(t, config))
				return true
			})
			var files []string
			if hosts, err := os.ReadFile(filepath.Join(b.podDir(c.pod), "etc-hosts")); err == nil {
				files = append(files, "etc-hosts:\n"+string(hosts))
			}
			golden(t, b, strings.TrimSuffix(file, ".yaml")+".container.golden", configs, files)
		})
	}
}

// message is a CRI message with the names that its fields and enums have in
// the CRI's protocol.
func message(t *testing.T, m proto.Message) map[string]any {
	t.Helper()
	body, err := protojson.Marshal(m)
	must(t, err)
	out := map[string]any{}
	must(t, json.Unmarshal(body, &out))
	return out
}

// readable shows a container's variables as text and not as bytes.
func readable(t *testing.T, config *runtimeapi.ContainerConfig) map[string]any {
	t.Helper()
	out := message(t, config)
	var env []string
	for _, e := range config.Envs {
		env = append(env, e.Key+"="+string(e.Value))
	}
	delete(out, "envs")
	if env != nil {
		out["envs"] = env
	}
	return out
}

func golden(t *testing.T, b *Builder, file string, value any, notes []string) {
	t.Helper()
	body, err := yaml.Marshal(value)
	must(t, err)
	for _, n := range notes {
		body = append(body, "# "+strings.ReplaceAll(strings.TrimSuffix(n, "\n"), "\n", "\n# ")+"\n"...)
	}
	got := strings.ReplaceAll(string(body), b.Root, "$ROOT")
	if *update {
		must(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (run with -update to accept):\n%s", file, diff)
	}
}

func asUserError(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("want *Error, got %v", err)
	}
	return e
}
