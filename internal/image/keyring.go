package image

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// keyring finds the credentials for an image
// (https://kubernetes.io/docs/concepts/containers/images/#config-json): a key
// names a registry, where each part of the host may be a pattern, and may go
// on with the beginning of a path. A port must be the same. More specific
// keys come first; credentials of the same key in the order of the secrets.
type keyring struct {
	keys []key // sorted by name, last first
}

type key struct {
	name string // host[:port][/path], without scheme
	host []string
	port string
	path string
	auth *runtimeapi.AuthConfig
}

// entry is the value of one registry in either format.
type entry struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// addSecret adds a secret of one of the two docker types; others are skipped.
func (k *keyring) addSecret(s *v1.Secret) error {
	var err error
	switch {
	case s.Type == v1.SecretTypeDockerConfigJson && len(s.Data[v1.DockerConfigJsonKey]) > 0:
		err = k.addConfig(s.Data[v1.DockerConfigJsonKey], true)
	case s.Type == v1.SecretTypeDockercfg && len(s.Data[v1.DockerConfigKey]) > 0:
		err = k.addConfig(s.Data[v1.DockerConfigKey], false)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return nil
}

// addConfig adds a config.json, which has its registries below "auths", or a
// .dockercfg, which has them at the top. Errors never quote the content.
func (k *keyring) addConfig(data []byte, nested bool) error {
	var registries map[string]entry
	var err error
	if nested {
		var config struct {
			Auths map[string]entry `json:"auths"`
		}
		err = json.Unmarshal(data, &config)
		registries = config.Auths
	} else {
		err = json.Unmarshal(data, &registries)
	}
	if err != nil {
		return errors.New("not a valid docker configuration")
	}
	var errs []error
	for registry, e := range registries {
		if err := k.add(registry, e); err != nil {
			errs = append(errs, err)
		}
	}
	// Stable, so that the order of the secrets is kept within a name.
	slices.SortStableFunc(k.keys, func(a, b key) int { return cmp.Compare(b.name, a.name) })
	return errors.Join(errs...)
}

func (k *keyring) add(registry string, e entry) error {
	if !strings.HasPrefix(registry, "https://") && !strings.HasPrefix(registry, "http://") {
		registry = "https://" + registry
	}
	u, err := url.Parse(registry)
	if err != nil || u.Host == "" {
		return errors.New("a registry name is not valid")
	}
	// Docker's API versions in front of a path mean the registry itself.
	p := u.Path
	if rest, ok := strings.CutPrefix(p, "/v1/"); ok {
		p = "/" + rest
	} else if rest, ok := strings.CutPrefix(p, "/v2/"); ok {
		p = "/" + rest
	}
	if p == "/" {
		p = ""
	}
	auth := &runtimeapi.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		if auth.Username, auth.Password, err = decodeAuth(e.Auth); err != nil {
			return fmt.Errorf("registry %s: %w", u.Host, err)
		}
	}
	added := key{name: u.Host + p, path: p, auth: auth}
	added.host, added.port = splitHost(u.Host)
	k.keys = append(k.keys, added)
	return nil
}

// decodeAuth reads base64(username:password), padded or not.
func decodeAuth(s string) (username, password string, err error) {
	s = strings.TrimRight(strings.TrimSpace(s), "=")
	data, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil {
		return "", "", errors.New("field auth is not base64")
	}
	username, password, ok := strings.Cut(string(data), ":")
	if !ok {
		return "", "", errors.New("field auth is not base64 of username:password")
	}
	return username, password, nil
}

func splitHost(hostport string) (host []string, port string) {
	h, p, err := net.SplitHostPort(hostport)
	if err != nil {
		h, p = hostport, ""
	}
	return strings.Split(h, "."), p
}

// lookup returns all credentials that fit a repository given by its full
// name; more than one may, as when they are being rotated.
func (k *keyring) lookup(repository string) []*runtimeapi.AuthConfig {
	hostport, rest, _ := strings.Cut(repository, "/")
	host, port := splitHost(hostport)
	var found []*runtimeapi.AuthConfig
	for _, key := range k.keys {
		if key.port == port && strings.HasPrefix("/"+rest, key.path) && matchHost(key.host, host) {
			found = append(found, key.auth)
		}
	}
	if len(found) > 0 || hostport != defaultDomain {
		return found
	}
	// Docker Hub's credentials are kept under its old name.
	for _, key := range k.keys {
		if key.name == "index.docker.io" {
			found = append(found, key.auth)
		}
	}
	return found
}

func matchHost(pattern, host []string) bool {
	return slices.EqualFunc(pattern, host, func(pattern, part string) bool {
		ok, err := path.Match(pattern, part)
		return ok && err == nil
	})
}

// maxConfigFile bounds what is read of a node's credential file.
const maxConfigFile = 10 << 20

// readConfigFiles reads what there is of the node's own files.
func readConfigFiles(files []string) (*keyring, error) {
	ring := &keyring{}
	var errs []error
	for _, name := range files {
		data, err := readBounded(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = ring.addConfig(data, !strings.HasSuffix(name, ".dockercfg"))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return ring, errors.Join(errs...)
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err == nil && len(data) > maxConfigFile {
		err = fmt.Errorf("more than %d bytes", maxConfigFile)
	}
	return data, err
}
