package cri

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
)

// socketPath returns the path of the unix socket that an endpoint names, and
// whether the endpoint is in the deprecated form of a bare path.
func socketPath(endpoint string) (path string, bare bool, err error) {
	if endpoint == "" {
		return "", false, fmt.Errorf("parse endpoint: it is empty")
	}
	if !strings.Contains(endpoint, "://") && !strings.HasPrefix(endpoint, "unix:") {
		if !filepath.IsAbs(endpoint) {
			return "", false, fmt.Errorf("parse endpoint %q: want unix:///path/to/socket", endpoint)
		}
		return endpoint, true, nil
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", false, fmt.Errorf("parse endpoint %q: %w", endpoint, err)
	}
	if u.Scheme != "unix" {
		return "", false, fmt.Errorf("parse endpoint %q: scheme %q is not unix", endpoint, u.Scheme)
	}
	path = u.Path
	if path == "" {
		path = u.Opaque // unix:/path has it in Path, unix:path here
	}
	if u.Host != "" || !filepath.IsAbs(path) {
		return "", false, fmt.Errorf("parse endpoint %q: want unix:///path/to/socket, an absolute path after three slashes", endpoint)
	}
	return path, false, nil
}
