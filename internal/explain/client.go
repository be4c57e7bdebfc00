package explain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"time"

	"golang.org/x/sys/unix"
)

// maxReport bounds what a client reads of one report, in bytes.
const maxReport = 64 << 20

// Client asks a running agent.
type Client struct {
	path string
	http *http.Client
}

// NewClient returns a client of the agent whose socket is at path.
func NewClient(path string) *Client {
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			d := net.Dialer{Timeout: 2 * time.Second}
			return d.DialContext(ctx, "unix", path)
		},
		ResponseHeaderTimeout: 5 * time.Second,
	}}}
}

// Pods returns the agent's report.
func (c *Client) Pods(ctx context.Context) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var report Report
	err := c.get(ctx, podsPath, func(d *json.Decoder) error { return d.Decode(&report) })
	return report, err
}

// Watch calls f with a report now and after each change, until the context
// ends or f returns an error.
func (c *Client) Watch(ctx context.Context, f func(Report) error) error {
	return c.get(ctx, podsPath+"?"+watchQuery+"=true", func(d *json.Decoder) error {
		for {
			var report Report
			if err := d.Decode(&report); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					return errors.New("the kubelet ended the connection")
				}
				return err
			}
			if err := f(report); err != nil {
				return err
			}
		}
	})
}

func (c *Client) get(ctx context.Context, path string, read func(*json.Decoder) error) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://kubelet"+path, nil)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return c.explain(err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusForbidden {
		return fmt.Errorf("the kubelet refused the question on %s: only root may ask", c.path)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the kubelet answered %s on %s", response.Status, c.path)
	}
	body := io.Reader(response.Body)
	if path == podsPath {
		body = io.LimitReader(body, maxReport)
	}
	return read(json.NewDecoder(body))
}

// explain says what a person can do about a failed connection.
func (c *Client) explain(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no kubelet is running here: there is no socket %s (name another root directory with --root-dir)", c.path)
	case errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("the kubelet is not running: nobody answers on %s", c.path)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("only root may ask the kubelet on %s: try sudo", c.path)
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return fmt.Errorf("the kubelet on %s ended the connection: ask again", c.path)
	}
	if timeout := (net.Error)(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return fmt.Errorf("the kubelet does not answer on %s: it hangs, or too many are asking", c.path)
	}
	return fmt.Errorf("ask the kubelet on %s: %w", c.path, err)
}
