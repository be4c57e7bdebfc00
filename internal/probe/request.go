package probe

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Port returns the number that port stands for: itself, or that of the
// container's port of that name.
func Port(port intstr.IntOrString, c *v1.Container) (int, error) {
	n := port.IntValue()
	if port.Type == intstr.String {
		n = -1
		for i := range c.Ports {
			if c.Ports[i].Name == port.StrVal {
				n = int(c.Ports[i].ContainerPort)
				break
			}
		}
		if n < 0 {
			return 0, fmt.Errorf("port %q not found: container %q has no port of that name", port.StrVal, c.Name)
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %d", n)
	}
	return n, nil
}

// NewRequest returns the GET request that h describes, for probes and hooks.
// It goes to ip unless h names a host. Its headers are those of h; User-Agent
// is userAgent and Accept is */* where h does not say otherwise, and an empty
// Accept means none.
func NewRequest(h *v1.HTTPGetAction, c *v1.Container, ip, userAgent string) (*http.Request, error) {
	port, err := Port(h.Port, c)
	if err != nil {
		return nil, err
	}
	host := h.Host
	if host == "" {
		host = ip
	}
	u, err := url.Parse(h.Path) // it may have a query
	if err != nil {
		u = &url.URL{Path: h.Path}
	}
	u.Scheme = strings.ToLower(string(h.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequest(http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	for _, header := range h.HTTPHeaders {
		req.Header.Add(header.Name, header.Value)
	}
	req.Host = req.Header.Get("Host")
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", userAgent)
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if req.Header.Get("Accept") == "" {
		req.Header.Del("Accept")
	}
	return req, nil
}

// maxRedirects is net/http's own limit.
const maxRedirects = 10

// StayOnHost is the redirect policy of probes and hooks: one to another host
// is not followed, for it says nothing about the container, and the answer
// that asked for it is taken.
func StayOnHost(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}
