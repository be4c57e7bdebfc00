package criconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// UnlinkTarget removes the links of a pod's container that lead to a log that
// was removed. It succeeds if there are none.
func (l *Logs) UnlinkTarget(namespace, pod, container, target string) error {
	if l.linksDir == "" {
		return nil
	}
	links, err := filepath.Glob(filepath.Join(l.linksDir, pod+"_"+namespace+"_"+container+"-*.log"))
	if err != nil {
		return fmt.Errorf("unlink log of container %s: %w", container, err)
	}
	var errs []error
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != target {
			continue
		}
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("unlink log of container %s: %w", container, err)
	}
	return nil
}
