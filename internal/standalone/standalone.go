package standalone

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"
)

// Options of `kubelet standalone`.
type Options struct {
	Dir        string // everything of this node lives below it
	Manifests  string // folder of static pod manifests
	Images     string // folder of image archives loaded at start; "" for none
	Containerd string // binary
	Ctr        string // binary
	CNIPlugins string // folder of the network plugins
	Bridge     string // name of the pods' bridge
	Subnet     string // of the pods
	PauseImage string
	Table      bool // show the live table in the terminal
	Keep       bool // leave pods and runtime running at exit
	Config     string
}

// drainTimeout is how long a clean exit waits for the pods to end; their own
// grace periods bound them, this bounds a runtime that hangs.
const drainTimeout = 90 * time.Second

// ParseOptions reads the command line behind `kubelet standalone`.
func ParseOptions(args []string, out io.Writer) (Options, error) {
	var o Options
	f := flag.NewFlagSet("kubelet standalone", flag.ContinueOnError)
	f.SetOutput(out)
	f.StringVar(&o.Dir, "dir", "/var/lib/kubelet-standalone", "folder for everything this node keeps: runtime, images, pods, logs")
	f.StringVar(&o.Manifests, "manifests", "", "folder of pod manifests to run (default DIR/manifests)")
	f.StringVar(&o.Images, "images", "", "folder of image archives (*.tar) to load at start")
	f.StringVar(&o.Containerd, "containerd", "containerd", "containerd binary")
	f.StringVar(&o.Ctr, "ctr", "ctr", "ctr binary, to load image archives")
	f.StringVar(&o.CNIPlugins, "cni-bin-dir", "/usr/lib/cni", "folder of the CNI plugins bridge, host-local and portmap")
	f.StringVar(&o.Bridge, "bridge", "kubelet0", "bridge of the pod network")
	f.StringVar(&o.Subnet, "subnet", "10.89.0.0/24", "subnet of the pods")
	f.StringVar(&o.PauseImage, "pause-image", "registry.k8s.io/pause:3.10.2", "image of the sandbox")
	f.BoolVar(&o.Table, "table", false, "show the pods in a live table instead of the log (the log goes to DIR/kubelet.log)")
	f.BoolVar(&o.Keep, "keep", false, "at a clean exit leave the pods and the runtime running")
	f.StringVar(&o.Config, "config", "", "a KubeletConfiguration to lay over the standalone settings")
	f.Usage = func() {
		fmt.Fprint(out, "kubelet standalone: run the pods of a manifest folder on this machine, with a private containerd\nand no control plane. A clean exit (Ctrl-C) ends the pods and the runtime.\n\nUsage: kubelet standalone [flags]\n\n")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("kubelet standalone: unexpected argument %q", f.Arg(0))
	}
	if o.Manifests == "" {
		o.Manifests = filepath.Join(o.Dir, "manifests")
	}
	return o, nil
}

// check finds what is missing before anything is started.
func (o *Options) check() error {
	var problems []error
	for _, b := range []*string{&o.Containerd, &o.Ctr} {
		path, err := exec.LookPath(*b)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s is not installed: install containerd or name the binary with --%s", *b, filepath.Base(*b)))
			continue
		}
		*b = path
	}
	if _, err := exec.LookPath("runc"); err != nil {
		problems = append(problems, errors.New("runc is not installed"))
	}
	for _, plugin := range []string{"bridge", "host-local", "portmap"} {
		if _, err := os.Stat(filepath.Join(o.CNIPlugins, plugin)); err != nil {
			problems = append(problems, fmt.Errorf("network plugin %s is not in %s: install the CNI plugins or name their folder with --cni-bin-dir", plugin, o.CNIPlugins))
		}
	}
	if os.Getuid() != 0 {
		problems = append(problems, errors.New("kubelet standalone needs root"))
	}
	return errors.Join(problems...)
}

// Agent is the kubelet as this package sees it (package agent).
type Agent interface {
	Run(ctx context.Context) error
	// Drain ends all pods and returns when nothing of them is left.
	Drain(ctx context.Context) error
	// Rows is one row for each pod.
	Rows() []Row
	// Changed is signalled when a row may have changed.
	Changed() <-chan struct{}
}

// Run runs the node until ctx ends. newAgent makes the kubelet from the
// configuration file that Run writes.
func Run(ctx context.Context, o Options, newAgent func(ctx context.Context, args []string) (Agent, error)) error {
	if err := o.check(); err != nil {
		return err
	}
	l := Layout{Dir: o.Dir}
	if err := l.write(o); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Manifests, 0o755); err != nil {
		return fmt.Errorf("make manifest folder: %w", err)
	}
	r, err := startRuntime(ctx, l, o)
	if err != nil {
		return err
	}
	supervised, release := context.WithCancel(ctx)
	defer release()
	if o.Images != "" {
		if err := r.load(ctx, o.Ctr, o.Images); err != nil {
			return errors.Join(err, r.stop())
		}
	}
	args, err := l.kubeletArgs(o)
	if err != nil {
		return errors.Join(err, r.stop())
	}
	// The agent outlives ctx: it still has to end the pods.
	running, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	a, err := newAgent(running, args)
	if err != nil {
		return errors.Join(err, r.stop())
	}
	go r.supervise(supervised)
	done := make(chan error, 1)
	go func() { done <- a.Run(running) }()
	if o.Table {
		go showTable(supervised, os.Stdout, a)
	}
	select {
	case err := <-done:
		// It could not start or gave up: the pods stay for the next run.
		return err
	case <-ctx.Done():
	}
	if o.Keep {
		end()
		return <-done
	}
	fmt.Fprintln(os.Stdout, "\nEnding the pods …")
	draining, stop := context.WithTimeout(running, drainTimeout)
	defer stop()
	err = a.Drain(draining)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Pods did not end, leaving the runtime to them")
		end()
		return errors.Join(err, <-done)
	}
	release()
	end()
	err = <-done
	fmt.Fprintln(os.Stdout, "Ending the runtime …")
	return errors.Join(err, r.stop(), l.removeState(o))
}

// kubeletArgs writes the kubelet's configuration and returns its command line.
func (l Layout) kubeletArgs(o Options) ([]string, error) {
	body, err := yaml.Marshal(map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + l.Socket(),
		"staticPodPath":            o.Manifests,
		"podLogsDir":               l.PodLogs(),
		"failSwapOn":               false,
		"failCgroupV1":             false,
		"cgroupRoot":               "/",
		"enableServer":             false,
	})
	if err != nil {
		return nil, fmt.Errorf("write kubelet configuration: %w", err)
	}
	file := filepath.Join(l.Dir, "kubelet.yaml")
	if err := os.WriteFile(file, body, 0o600); err != nil {
		return nil, fmt.Errorf("write kubelet configuration: %w", err)
	}
	args := []string{"--config", file, "--root-dir", l.Root()}
	if o.Config != "" {
		dir := filepath.Join(l.Dir, "kubelet.conf.d")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make drop-in folder: %w", err)
		}
		text, err := os.ReadFile(o.Config)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "10-user.conf"), text, 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("take over --config: %w", err)
		}
		args = append(args, "--config-dir", dir)
	}
	return args, nil
}
