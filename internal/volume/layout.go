package volume

import (
	"fmt"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// Names of directories, as upstream has them.
const (
	podsDir    = "pods"
	volumesDir = "volumes"
	pluginsDir = "plugins"
	devicesDir = "volumeDevices" // of block volumes
)

// escape turns a plugin's name into that of a directory.
func escape(plugin string) string { return strings.ReplaceAll(plugin, "/", "~") }

// checkComponent refuses what is not one component of a path. Names and UIDs
// of API pods are validated by the API server; this holds for the others.
func checkComponent(kind, name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%s %q cannot be the name of a directory", kind, name)
	}
	return nil
}

func (r *Reconciler) podsDir() string { return filepath.Join(r.config.Root, podsDir) }

func (r *Reconciler) podDir(uid types.UID) string { return filepath.Join(r.podsDir(), string(uid)) }

func volumeDir(podDir string, p Plugin, volume string) string {
	return filepath.Join(podDir, volumesDir, escape(p.Name()), volume)
}
