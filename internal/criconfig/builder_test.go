package criconfig

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"kubelet/internal/podspec"
)

func TestNewNamesAllThatIsMissing(t *testing.T) {
	_, err := New(Config{CPUCFSQuota: true})
	if err == nil {
		t.Fatal("an empty config is accepted")
	}
	for _, field := range []string{"Root", "PodLogsDir", "Images", "CPUCFSQuotaPeriod"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q does not name %s", err, field)
		}
	}
}

// container makes the config of the first container of a pod that edit has
// changed.
func container(t *testing.T, edit func(c *cluster, container *v1.Container)) (*runtimeapi.ContainerConfig, error) {
	t.Helper()
	content, err := os.ReadFile("testdata/minimal.yaml")
	must(t, err)
	c := load(t, content)
	edit(c, &c.pod.Spec.Containers[0])
	return node(t, c).Container(t.Context(), input(c, &c.pod.Spec.Containers[0], podspec.Regular))
}

func ptr[T any](v T) *T { return &v }

// What a user did wrong is told with the field, or the object, to mend.
func TestUserErrors(t *testing.T) {
	envFrom := func(source v1.EnvVarSource) func(*cluster, *v1.Container) {
		return func(_ *cluster, c *v1.Container) { c.Env = []v1.EnvVar{{Name: "X", ValueFrom: &source}} }
	}
	volume := func(m v1.VolumeMount) func(*cluster, *v1.Container) {
		return func(c *cluster, container *v1.Container) {
			c.pod.Spec.Volumes = []v1.Volume{{Name: "v"}}
			container.VolumeMounts = []v1.VolumeMount{m}
		}
	}
	security := func(sc v1.SecurityContext) func(*cluster, *v1.Container) {
		return func(_ *cluster, c *v1.Container) { c.SecurityContext = &sc }
	}
	for _, c := range []struct {
		name string
		edit func(*cluster, *v1.Container)
		want []string
	}{
		{"no configmap", envFrom(v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "settings"}, Key: "k"}}),
			[]string{"X", `configmap "settings"`, "not found"}},
		{"no key", func(c *cluster, container *v1.Container) {
			c.secrets["default/creds"] = &v1.Secret{}
			container.Env = []v1.EnvVar{{Name: "X", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "creds"}, Key: "pw"}}}}
		}, []string{"X", "couldn't find key pw in Secret default/creds"}},
		{"envFrom", func(_ *cluster, c *v1.Container) {
			c.EnvFrom = []v1.EnvFromSource{{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "creds"}}}}
		}, []string{`secret "creds"`}},
		{"bad field", envFrom(v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "spec.nothing"}}), []string{"X", "spec.nothing"}},
		{"bad resource", envFrom(v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "other", Resource: "limits.cpu"}}), []string{"X", "other"}},
		{"services not known", func(c *cluster, _ *v1.Container) { c.unsynced = true }, []string{"services"}},
		{"unknown volume", func(_ *cluster, c *v1.Container) { c.VolumeMounts = []v1.VolumeMount{{Name: "v", MountPath: "/v"}} }, []string{`"v"`}},
		{"absolute subPath", volume(v1.VolumeMount{Name: "v", MountPath: "/v", SubPath: "/etc"}), []string{`"v"`, `subPath: "/etc" must not be an absolute path`}},
		{"subPath out", volume(v1.VolumeMount{Name: "v", MountPath: "/v", SubPath: "a/../../b"}), []string{`subPath: "a/../../b" must not contain '..'`}},
		{"subPathExpr without its variable", volume(v1.VolumeMount{Name: "v", MountPath: "/v", SubPathExpr: "$(NONE)/$$(FINE)/$(NONE)"}),
			[]string{`subPathExpr "$(NONE)/$$(FINE)/$(NONE)": the container has no variable NONE; add it to env`}},
		{"subPathExpr out", func(c *cluster, container *v1.Container) {
			container.Env = []v1.EnvVar{{Name: "UP", Value: ".."}}
			volume(v1.VolumeMount{Name: "v", MountPath: "/v", SubPathExpr: "a/$(UP)/$(UP)"})(c, container)
		}, []string{`subPathExpr: "a/../.." must not contain '..'`}},
		{"absolute subPathExpr", func(c *cluster, container *v1.Container) {
			container.Env = []v1.EnvVar{{Name: "ROOT", Value: "/tmp"}}
			volume(v1.VolumeMount{Name: "v", MountPath: "/v", SubPathExpr: "$(ROOT)"})(c, container)
		}, []string{`subPathExpr: "/tmp" must not be an absolute path`}},
		{"propagation", volume(v1.VolumeMount{Name: "v", MountPath: "/v", MountPropagation: ptr(v1.MountPropagationMode("Odd"))}), []string{"Odd"}},
		{"recursive but writable", volume(v1.VolumeMount{Name: "v", MountPath: "/v", RecursiveReadOnly: ptr(v1.RecursiveReadOnlyEnabled)}), []string{"readOnly: true"}},
		{"block device", func(_ *cluster, c *v1.Container) { c.VolumeDevices = []v1.VolumeDevice{{Name: "v"}} }, []string{"volumeDevices"}},
		{"root user", security(v1.SecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr[int64](0)}), []string{"runAsUser"}},
		{"root image", security(v1.SecurityContext{RunAsNonRoot: ptr(true)}), []string{"container has runAsNonRoot and image will run as root", "nginx:1.27"}},
		{"named user", func(c *cluster, container *v1.Container) {
			c.imageUser = "www"
			container.SecurityContext = &v1.SecurityContext{RunAsNonRoot: ptr(true)}
		}, []string{"image has non-numeric user (www), cannot verify user is non-root", "runAsUser"}},
		{"odd user", func(c *cluster, container *v1.Container) {
			c.imageUID = ptr[int64](1 << 33)
			container.SecurityContext = &v1.SecurityContext{RunAsNonRoot: ptr(true)}
		}, []string{"8589934592", "runAsUser"}},
		{"zero byte", func(_ *cluster, c *v1.Container) { c.Env = []v1.EnvVar{{Name: "X", Value: "a\x00b"}} }, []string{`"X"`, "zero byte"}},
		{"field of another version", envFrom(v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{APIVersion: "v2", FieldPath: "metadata.name"}}), []string{"X", `"v2"`}},
		{"server does not answer", func(c *cluster, container *v1.Container) {
			c.err = errors.New("connection refused")
			container.Env = []v1.EnvVar{{Name: "X", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "creds"}, Key: "pw"}}}}
		}, []string{"X", "connection refused"}},
		{"seccomp without file", security(v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost}}), []string{"localhostProfile"}},
		{"seccomp leads out", security(v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("../../etc/shadow")}}), []string{"../../etc/shadow"}},
		{"apparmor", security(v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost}}), []string{"localhostProfile"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := container(t, c.edit)
			e := asUserError(t, err)
			if e.Reason != "CreateContainerConfigError" {
				t.Errorf("reason %s", e.Reason)
			}
			for _, w := range c.want {
				if !strings.Contains(e.Message, w) {
					t.Errorf("message %q lacks %q", e.Message, w)
				}
			}
		})
	}
}

func TestSandboxUserErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*v1.PodSpec)
		want string
	}{
		{"hostname", func(s *v1.PodSpec) { s.Hostname = "not_a_label" }, "not_a_label"},
		{"subdomain", func(s *v1.PodSpec) { s.Subdomain = "Sub" }, "Sub"},
		{"override", func(s *v1.PodSpec) { s.HostnameOverride = ptr("no name") }, "no name"},
		{"fqdn", func(s *v1.PodSpec) {
			s.Hostname, s.Subdomain, s.SetHostnameAsFQDN = strings.Repeat("h", 40), strings.Repeat("s", 40), ptr(true)
		}, "setHostnameAsFQDN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			content, err := os.ReadFile("testdata/minimal.yaml")
			must(t, err)
			cl := load(t, content)
			c.edit(&cl.pod.Spec)
			_, err = node(t, cl).Sandbox(cl.pod, 0, "/p")
			if e := asUserError(t, err); e.Reason != "CreatePodSandboxError" || !strings.Contains(e.Message, c.want) {
				t.Errorf("got %v", e)
			}
		})
	}
}

func TestRuntimeHandler(t *testing.T) {
	c := &cluster{}
	b := node(t, c)
	pod := &v1.Pod{}
	if h, err := b.RuntimeHandler(t.Context(), pod); h != "" || err != nil {
		t.Errorf("no class: %q %v", h, err)
	}
	pod.Spec.RuntimeClassName = ptr("gvisor")
	if h, err := b.RuntimeHandler(t.Context(), pod); h != "runsc" || err != nil {
		t.Errorf("gvisor: %q %v", h, err)
	}
	pod.Spec.RuntimeClassName = ptr("kata")
	_, err := b.RuntimeHandler(t.Context(), pod)
	if e := asUserError(t, err); !strings.Contains(e.Message, "kata") {
		t.Error(e)
	}
}

// A pod with users of its own does not start where the runtime cannot map
// them: it would run with the node's.
func TestRuntimeHandlerWithoutUserNamespaces(t *testing.T) {
	pod := &v1.Pod{Spec: v1.PodSpec{HostUsers: ptr(false)}}
	c := &cluster{}
	if _, err := node(t, c).RuntimeHandler(t.Context(), pod); err != nil {
		t.Error(err)
	}
	c.oldRuntime = true
	_, err := node(t, c).RuntimeHandler(t.Context(), pod)
	if e := asUserError(t, err); e.Reason != "CreatePodSandboxError" || !strings.Contains(e.Message, "hostUsers: false: the container runtime does not support user namespaces") {
		t.Error(e)
	}
	c.oldRuntime = false
	pod.Spec.RuntimeClassName = ptr("gvisor")
	_, err = node(t, c).RuntimeHandler(t.Context(), pod)
	if e := asUserError(t, err); !strings.Contains(e.Message, `handler "runsc"`) {
		t.Error(e)
	}
	c.handlerErr = errors.New("the runtime restarts")
	if _, err = node(t, c).RuntimeHandler(t.Context(), pod); !errors.Is(err, c.handlerErr) {
		t.Errorf("got %v", err)
	}
	pod.Spec.HostUsers = nil
	if h, err := node(t, c).RuntimeHandler(t.Context(), pod); h != "runsc" || err != nil {
		t.Errorf("a pod with the node's users: %q, %v", h, err)
	}
}

// A profile that is not on the node is what upstream finds out from the
// runtime, hence its reason.
func TestSeccompProfileThatIsNotThere(t *testing.T) {
	_, err := container(t, func(_ *cluster, c *v1.Container) {
		c.SecurityContext = &v1.SecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("missing.json")}}
	})
	if e := asUserError(t, err); e.Reason != "CreateContainerError" || !strings.Contains(e.Message, "/seccomp/missing.json") {
		t.Error(e)
	}
}

// The node's resolver file is checked at the start and after each change.
func TestResolvConfLimits(t *testing.T) {
	content, err := os.ReadFile("testdata/minimal.yaml")
	must(t, err)
	c := load(t, content)
	b := node(t, c)
	b.CheckResolvConf()
	for _, change := range []struct{ content, want string }{
		{"search " + strings.Repeat("a.example ", 30), "30 names, and pods can have 29"},
		{"search " + strings.Repeat("a", 254), "254 characters, more than 253"},
		{"search " + strings.Repeat(strings.Repeat("a", 200)+" ", 11), "2210 characters, more than 2048"},
		{"nameserver\n", "nameserver without an address"},
		{"nameserver 10.1.1.1\n", ""},
	} {
		before := len(c.nodeEvents)
		must(t, os.WriteFile(b.ResolverConfig, []byte(change.content), 0o644))
		for range 3 { // three pods
			_, _ = b.Sandbox(c.pod, 0, "/p")
		}
		told := c.nodeEvents[before:]
		if change.want == "" && len(told) == 0 {
			continue
		}
		if len(told) != 1 || !strings.HasPrefix(told[0], "CheckLimitsForResolvConf ") || !strings.Contains(told[0], change.want) {
			t.Errorf("%.40q: told %q, want %q once", change.content, told, change.want)
		}
	}
	must(t, os.Remove(b.ResolverConfig))
	before := len(c.nodeEvents)
	b.CheckResolvConf()
	if told := c.nodeEvents[before:]; len(told) != 1 || !strings.Contains(told[0], "no such file") {
		t.Errorf("a missing file: %q", told)
	}
}

// The image's user is used, and runAsNonRoot accepts it, when the spec names
// none.
func TestImageUser(t *testing.T) {
	config, err := container(t, func(c *cluster, container *v1.Container) {
		c.imageUID = ptr[int64](101)
		container.SecurityContext = &v1.SecurityContext{RunAsNonRoot: ptr(true)}
	})
	must(t, err)
	if u := config.Linux.SecurityContext.RunAsUser.GetValue(); u != 101 {
		t.Errorf("runs as %d", u)
	}
	config, err = container(t, func(c *cluster, _ *v1.Container) { c.imageUser = "www" })
	must(t, err)
	if sc := config.Linux.SecurityContext; sc.RunAsUser != nil || sc.RunAsUsername != "www" {
		t.Errorf("runs as %v %q", sc.RunAsUser, sc.RunAsUsername)
	}
}

func TestDNSLimitsAreToldAsEvents(t *testing.T) {
	content, err := os.ReadFile("testdata/minimal.yaml")
	must(t, err)
	c := load(t, content)
	c.pod.Spec.DNSConfig = &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "1.1.1.2", "1.1.1.3"}}
	for i := range 40 {
		c.pod.Spec.DNSConfig.Searches = append(c.pod.Spec.DNSConfig.Searches, strings.Repeat("x", 1+i)+".example")
	}
	config, err := node(t, c).Sandbox(c.pod, 0, "/p")
	must(t, err)
	if d := config.DnsConfig; len(d.Servers) != 3 || len(d.Searches) != 32 {
		t.Errorf("%d servers, %d searches", len(d.Servers), len(d.Searches))
	}
	if len(c.events) != 2 || !strings.HasPrefix(c.events[0], "Warning DNSConfigForming ") {
		t.Errorf("events %q", c.events)
	}
}

func TestDNSPolicies(t *testing.T) {
	for _, c := range []struct {
		name     string
		edit     func(*v1.Pod, *Builder)
		servers  []string
		searches []string
		event    string
	}{
		{"host network falls back", func(p *v1.Pod, _ *Builder) { p.Spec.HostNetwork = true }, []string{"192.168.1.1"}, []string{"lan"}, ""},
		{"cluster first with host network", func(p *v1.Pod, _ *Builder) {
			p.Spec.HostNetwork, p.Spec.DNSPolicy = true, v1.DNSClusterFirstWithHostNet
		}, []string{"10.96.0.10"}, []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"}, ""},
		{"default", func(p *v1.Pod, _ *Builder) { p.Spec.DNSPolicy = v1.DNSDefault }, []string{"192.168.1.1"}, []string{"lan"}, ""},
		{"none", func(p *v1.Pod, _ *Builder) { p.Spec.DNSPolicy = v1.DNSNone }, nil, []string{}, ""},
		{"no cluster DNS", func(_ *v1.Pod, b *Builder) { b.ClusterDNS = nil }, []string{"192.168.1.1"}, []string{"lan"}, "MissingClusterDNS"},
		{"no resolvConf", func(p *v1.Pod, b *Builder) { p.Spec.DNSPolicy, b.ResolverConfig = v1.DNSDefault, "" }, []string{"127.0.0.1", "::1"}, []string{"."}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			content, err := os.ReadFile("testdata/minimal.yaml")
			must(t, err)
			cl := load(t, content)
			b := node(t, cl)
			c.edit(cl.pod, b)
			dns, err := b.dns(cl.pod)
			must(t, err)
			if !slices.Equal(dns.Servers, c.servers) || !slices.Equal(dns.Searches, c.searches) {
				t.Errorf("got servers %q searches %q", dns.Servers, dns.Searches)
			}
			if told := strings.Join(cl.events, "\n"); !strings.Contains(told, c.event) || (c.event == "") != (told == "") {
				t.Errorf("events %q", told)
			}
		})
	}
}

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "": "nothing", "B": "$(A)", "a.b-c": "odd"}
	lookup := func(name string) (string, bool) { v, ok := vars[name]; return v, ok }
	for in, want := range map[string]string{
		"":            "",
		"plain":       "plain",
		"$(A)":        "1",
		"$(A)$(A)x":   "11x",
		"$(B)":        "$(A)", // what a value holds is not expanded again
		"$(MISSING)":  "$(MISSING)",
		"$$(A)":       "$(A)",
		"$$$(A)":      "$1",
		"$$$$(A)":     "$$(A)",
		"$(A":         "$(A",
		"$(A$(A)":     "$(A$(A)",
		"$A $":        "$A $",
		"$()":         "nothing",
		"$(a.b-c)":    "odd",
		"100%$ $(A)€": "100%$ 1€",
	} {
		if got := expand(in, lookup); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzResolvConf(f *testing.F) {
	f.Add(resolvConf)
	f.Add("nameserver\n")
	f.Add("options a:b a:c\nsearch\n")
	f.Fuzz(func(t *testing.T, text string) {
		dns, err := parseResolvConf(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, s := range append(dns.Servers, dns.Searches...) {
			if strings.ContainsAny(s, " \t\n") {
				t.Errorf("%q in %q", s, text)
			}
		}
	})
}

func TestOOMScoreAdj(t *testing.T) {
	const capacity = 4 << 30
	pod := func(edit func(*v1.Pod)) *v1.Pod {
		p := &v1.Pod{Status: v1.PodStatus{QOSClass: v1.PodQOSBurstable}}
		p.Spec.Containers = []v1.Container{{Name: "a"}}
		edit(p)
		return p
	}
	request := func(c *v1.Container, memory string) {
		c.Resources.Requests = v1.ResourceList{v1.ResourceMemory: quantity(memory)}
	}
	for _, c := range []struct {
		name string
		pod  *v1.Pod
		want int64
	}{
		{"best effort", pod(func(p *v1.Pod) { p.Status.QOSClass = v1.PodQOSBestEffort }), 1000},
		{"guaranteed", pod(func(p *v1.Pod) { p.Status.QOSClass = v1.PodQOSGuaranteed }), -997},
		{"burstable without memory", pod(func(p *v1.Pod) {}), 999},
		{"a quarter of the node", pod(func(p *v1.Pod) { request(&p.Spec.Containers[0], "1Gi") }), 750},
		{"the whole node", pod(func(p *v1.Pod) { request(&p.Spec.Containers[0], "4Gi") }), 3},
		{"pod-level request", pod(func(p *v1.Pod) {
			p.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceMemory: quantity("1Gi")}}
		}), 750},
	} {
		if got := oomScoreAdj(c.pod, &c.pod.Spec.Containers[0], capacity); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestHugepageSize(t *testing.T) {
	for in, want := range map[v1.ResourceName]string{
		"hugepages-2Mi": "2MB", "hugepages-1Gi": "1GB", "hugepages-64Ki": "64KB",
		"hugepages-": "", "memory": "", "hugepages-x": "", "hugepages-0": "",
	} {
		if got, ok := hugepageSize(in); got != want || ok != (want != "") {
			t.Errorf("%s: got %q %v, want %q", in, got, ok, want)
		}
	}
}

// A link that somebody planted in the pod's directory leads nowhere outside.
func TestFilesStayInThePodDirectory(t *testing.T) {
	content, err := os.ReadFile("testdata/minimal.yaml")
	must(t, err)
	c := load(t, content)
	b := node(t, c)
	outside := filepath.Join(t.TempDir(), "outside")
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "hosts"), []byte("precious"), 0o644))
	dir := b.podDir(c.pod)
	must(t, os.MkdirAll(dir, 0o750))
	must(t, os.Symlink(filepath.Join(outside, "hosts"), filepath.Join(dir, "etc-hosts")))
	in := input(c, &c.pod.Spec.Containers[0], podspec.Regular)
	_, err = b.Container(t.Context(), in)
	must(t, err)
	if got, _ := os.ReadFile(filepath.Join(outside, "hosts")); string(got) != "precious" {
		t.Fatalf("written through the link: %q", got)
	}
	if info, err := os.Lstat(filepath.Join(dir, "etc-hosts")); err != nil || !info.Mode().IsRegular() {
		t.Fatalf("etc-hosts is %v, %v", info, err)
	}
	must(t, os.RemoveAll(filepath.Join(dir, "containers")))
	must(t, os.Symlink(outside, filepath.Join(dir, "containers")))
	if _, err := b.Container(t.Context(), in); err == nil {
		t.Fatal("a termination message file was made through the link")
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Fatalf("made outside: %v", entries)
	}
}

// The hosts file keeps its inode as long as it is right: running containers
// have it mounted. Termination messages start empty, may be written by any
// user, and do not pile up.
func TestFilesOverRestarts(t *testing.T) {
	content, err := os.ReadFile("testdata/minimal.yaml")
	must(t, err)
	c := load(t, content)
	b := node(t, c)
	in := input(c, &c.pod.Spec.Containers[0], podspec.Regular)
	hosts := filepath.Join(b.podDir(c.pod), "etc-hosts")
	var before os.FileInfo
	for attempt := range uint32(10) {
		in.Attempt = attempt
		config, err := b.Container(t.Context(), in)
		must(t, err)
		log := config.Mounts[len(config.Mounts)-1].HostPath
		info, err := os.Stat(log)
		must(t, err)
		if info.Size() != 0 || info.Mode() != 0o666 {
			t.Fatalf("termination message file: %v, %d bytes", info.Mode(), info.Size())
		}
		must(t, os.WriteFile(log, []byte("bye"), 0o666))
		after, err := os.Stat(hosts)
		must(t, err)
		if before != nil && !os.SameFile(before, after) {
			t.Fatal("etc-hosts was replaced")
		}
		before = after
	}
	entries, err := os.ReadDir(filepath.Join(b.podDir(c.pod), "containers", "nginx"))
	must(t, err)
	if len(entries) != keptTerminationLogs {
		t.Errorf("%d termination message files are kept", len(entries))
	}
	in.PodIPs = []string{"10.244.0.99"}
	_, err = b.Container(t.Context(), in)
	must(t, err)
	if got, _ := os.ReadFile(hosts); !strings.Contains(string(got), "10.244.0.99\tweb") {
		t.Errorf("etc-hosts after a new address: %s", got)
	}
}

func TestLogLinks(t *testing.T) {
	root := t.TempDir()
	l := &Logs{podLogsDir: filepath.Join(root, "pods"), linksDir: filepath.Join(root, "containers")}
	c := ContainerLog{Namespace: "ns", Pod: "web", UID: "u-1", Name: "nginx", ID: "abcdef0123", LogPath: "nginx/0.log"}
	must(t, l.LinkLog(c))
	if _, err := os.Stat(l.linksDir); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a link without a log")
	}
	log := filepath.Join(root, "pods/ns_web_u-1/nginx/0.log")
	must(t, os.MkdirAll(filepath.Dir(log), 0o755))
	must(t, os.WriteFile(log, []byte("x"), 0o644))
	for range 2 {
		must(t, l.LinkLog(c))
	}
	link := filepath.Join(root, "containers/web_ns_nginx-abcdef0123.log")
	if target, err := os.Readlink(link); err != nil || target != log {
		t.Fatalf("link: %q %v", target, err)
	}
	other := c
	other.UID, other.Pod, other.ID = "u-2", "web2", "fedcba"
	must(t, os.MkdirAll(filepath.Join(root, "pods/ns_web2_u-2/nginx"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "pods/ns_web2_u-2/nginx/0.log"), nil, 0o644))
	must(t, l.LinkLog(other))

	must(t, l.RemoveLogs("u-1"))
	must(t, l.RemoveLogs("u-1"))
	if _, err := os.Lstat(link); !errors.Is(err, os.ErrNotExist) {
		t.Error("the link stayed")
	}
	if _, err := os.Stat(filepath.Join(root, "pods/ns_web_u-1")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the logs stayed")
	}
	if _, err := os.Stat(l.link(other)); err != nil {
		t.Error("another pod's log went too")
	}
	must(t, os.RemoveAll(filepath.Join(root, "pods/ns_web2_u-2")))
	must(t, l.RemoveDeadLinks(func(id string) bool { return id == "fedcba" }))
	if _, err := os.Lstat(l.link(other)); err != nil {
		t.Error("the link of a live container went")
	}
	must(t, l.RemoveDeadLinks(func(string) bool { return false }))
	if _, err := os.Lstat(l.link(other)); !errors.Is(err, os.ErrNotExist) {
		t.Error("a dead link stayed")
	}
	for _, uid := range []types.UID{"", "*", "../x"} {
		if l.RemoveLogs(uid) == nil {
			t.Errorf("UID %q is accepted", uid)
		}
	}
	long := c
	long.Pod = strings.Repeat("p", 253)
	if name := filepath.Base(l.link(long)); len(name) > 255 || !strings.HasSuffix(name, ".log") {
		t.Errorf("%d characters: %s", len(name), name)
	}
	if NewLogs("/var/log/pods/").linksDir == "" || NewLogs("/elsewhere").linksDir != "" {
		t.Error("links belong to the default directory only")
	}
}

func BenchmarkContainer(b *testing.B) {
	content, _ := os.ReadFile("testdata/full.yaml")
	t := &testing.T{}
	c := load(t, content)
	root := b.TempDir()
	builder, err := New(Config{Root: root, PodLogsDir: root + "/logs", CPUCFSQuota: true, CPUCFSQuotaPeriod: 100 * time.Millisecond,
		Objects: c, Services: c, RuntimeClasses: c, Images: c, MemoryCapacity: 4 << 30,
		HostIPs: func() []string { return []string{"10.70.0.2"} }})
	if err != nil {
		b.Fatal(err)
	}
	in := input(c, &c.pod.Spec.Containers[0], podspec.Regular)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := builder.Container(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

func quantity(s string) resource.Quantity { return resource.MustParse(s) }
