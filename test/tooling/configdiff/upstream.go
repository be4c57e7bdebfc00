// Package configdiff holds this kubelet's reading of command lines and
// configuration files against the upstream kubelet's, whose own code runs
// beside it: flags, gates, defaults, verdicts and the effective configuration.
// It is a module of its own so that upstream's packages keep the versions they
// were released with.
package configdiff

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/featuregate"
	_ "k8s.io/component-base/logs/json/register"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	_ "k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	internalconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/scheme"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"

	_ "unsafe" // for linkname
)

//go:linkname loadConfigFile k8s.io/kubernetes/cmd/kubelet/app.loadConfigFile
func loadConfigFile(ctx context.Context, name string) (*internalconfig.KubeletConfiguration, error)

//go:linkname mergeKubeletConfigurations k8s.io/kubernetes/cmd/kubelet/app.mergeKubeletConfigurations
func mergeKubeletConfigurations(kc *internalconfig.KubeletConfiguration, dir string) ([]string, error)

//go:linkname kubeletConfigFlagPrecedence k8s.io/kubernetes/cmd/kubelet/app.kubeletConfigFlagPrecedence
func kubeletConfigFlagPrecedence(kc *internalconfig.KubeletConfiguration, args []string) error

// reader reads configurations as upstream does. Upstream keeps its gates in a
// global variable, so cases run one after another.
type reader struct {
	pristine featuregate.MutableVersionedFeatureGate
}

func newReader() *reader {
	return &reader{utilfeature.DefaultMutableFeatureGate.DeepCopy()}
}

// flagSet defines upstream's flags.
func flagSet() (*pflag.FlagSet, *options.KubeletFlags, *internalconfig.KubeletConfiguration, error) {
	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	fs.SetOutput(io.Discard)
	flags := options.NewKubeletFlags()
	kc, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, nil, nil, err
	}
	flags.AddFlags(fs)
	options.AddKubeletConfigFlags(fs, kc)
	options.AddGlobalFlags(fs)
	return fs, flags, kc, nil
}

// read follows the steps of upstream's command, up to the point where the
// kubelet would be built.
func (r *reader) read(ctx context.Context, args []string) (kc *kubeletconfig.KubeletConfiguration, err error) {
	gates := r.pristine.DeepCopy()
	utilfeature.DefaultMutableFeatureGate, utilfeature.DefaultFeatureGate = gates, gates
	defer func() {
		if p := recover(); p != nil { // upstream panics on some bad gates
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	fs, flags, internal, err := flagSet()
	if err != nil {
		return nil, err
	}
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if len(fs.Args()) > 0 {
		return nil, errors.New("unknown command")
	}
	if err := gates.SetFromMap(internal.FeatureGates); err != nil {
		return nil, err
	}
	if err := options.ValidateKubeletFlags(flags); err != nil {
		return nil, err
	}
	if flags.KubeletConfigFile != "" {
		if internal, err = loadConfigFile(ctx, flags.KubeletConfigFile); err != nil {
			return nil, err
		}
	}
	if flags.KubeletDropinConfigDirectory != "" {
		if _, err := mergeKubeletConfigurations(internal, flags.KubeletDropinConfigDirectory); err != nil {
			return nil, err
		}
	}
	if flags.KubeletConfigFile != "" || flags.KubeletDropinConfigDirectory != "" {
		if err := kubeletConfigFlagPrecedence(internal, args); err != nil {
			return nil, err
		}
		if err := gates.SetFromMap(internal.FeatureGates); err != nil {
			return nil, err
		}
	}
	// Whether this machine's cgroup version is wanted is no question about
	// the configuration here; preflight asks it.
	judged := internal.DeepCopy()
	judged.FailCgroupV1 = false
	judged.SingleProcessOOMKill = nil
	if err := validation.ValidateKubeletConfiguration(judged, gates); err != nil {
		return nil, err
	}
	if flags.ExitOnLockContention && flags.LockFilePath == "" {
		return nil, errors.New("no lock file")
	}
	internal.SeccompDefault = internal.SeccompDefault || flags.SeccompDefault

	sch, _, err := scheme.NewSchemeAndCodecs()
	if err != nil {
		return nil, err
	}
	kc = &kubeletconfig.KubeletConfiguration{}
	if err := sch.Convert(internal, kc, nil); err != nil {
		return nil, err
	}
	kc.SetGroupVersionKind(kubeletconfig.SchemeGroupVersion.WithKind("KubeletConfiguration"))
	return kc, nil
}
