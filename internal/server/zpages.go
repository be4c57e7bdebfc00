package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// configzRoutes are /configz: the effective configuration.
func (s *Server) configzRoutes() []route {
	return []route{{pattern: "/configz", bucket: "configz", access: configzAccess, methods: onlyGET, serve: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		writeJSON(w, r, map[string]any{"kubeletconfig": s.cfg.Configz})
	}}}
}

// Statusz says what this program is (KEP-4827).
type Statusz struct {
	Started time.Time
	// GoVersion and BinaryVersion, without a v.
	GoVersion, BinaryVersion string
	// EmulationVersion is the minor release that it behaves as, "1.37".
	EmulationVersion string
}

// zpage is a page for people that programs can read too, if they ask for a
// version of it (KEP-4827 and KEP-4828):
//
//	Accept: application/json;g=config.k8s.io;v=v1beta1;as=Statusz
type zpage struct {
	kind string // Flagz or Statusz
	text func() string
	// fields of the object, beside kind and metadata.
	fields func() map[string]any
}

const zpageHeader = `
kubelet %s
Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.
`

func (s *Server) flagzRoutes() []route {
	if s.cfg.Flagz == nil {
		return nil
	}
	page := zpage{kind: "Flagz", fields: func() map[string]any { return map[string]any{"flags": s.cfg.Flagz} }}
	page.text = func() string {
		var text strings.Builder
		fmt.Fprintf(&text, zpageHeader, "flagz")
		for _, name := range slices.Sorted(maps.Keys(s.cfg.Flagz)) {
			fmt.Fprintf(&text, "%s=%s\n", name, s.cfg.Flagz[name])
		}
		return text.String()
	}
	return []route{{pattern: "/flagz", bucket: "flagz", access: flagzAccess, methods: onlyGET, serve: page.serve}}
}

// statuszRoutes lists the folders of the other routes.
func (s *Server) statuszRoutes(others []route) []route {
	z := s.cfg.Statusz
	if z == nil {
		return nil
	}
	paths := []string{"/statusz"}
	for _, r := range others {
		if first, _, _ := strings.Cut(strings.TrimPrefix(r.pattern, "/"), "/"); !slices.Contains(paths, "/"+first) {
			paths = append(paths, "/"+first)
		}
	}
	slices.Sort(paths)
	page := zpage{kind: "Statusz", fields: func() map[string]any {
		fields := map[string]any{
			"startTime": metav1.NewTime(z.Started), "uptimeSeconds": int64(time.Since(z.Started).Seconds()),
			"goVersion": z.GoVersion, "binaryVersion": z.BinaryVersion, "paths": paths,
		}
		if z.EmulationVersion != "" {
			fields["emulationVersion"] = z.EmulationVersion
		}
		return fields
	}}
	page.text = func() string {
		up := int64(time.Since(z.Started).Seconds())
		return fmt.Sprintf(zpageHeader+`
Started: %s
Up: %d hr %02d min %02d sec
Go version: %s
Binary version: %s
Emulation version: %s
Paths: %s
`, "statusz", z.Started.Format(time.UnixDate), up/3600, up/60%60, up%60,
			z.GoVersion, z.BinaryVersion, z.EmulationVersion, strings.Join(paths, " "))
	}
	return []route{{pattern: "/statusz", bucket: "statusz", access: statuszAccess, methods: onlyGET, serve: page.serve}}
}

func (p zpage) serve(w http.ResponseWriter, r *http.Request) {
	form, version, ok := p.negotiate(r.Header.Get("Accept"))
	if !ok {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotAcceptable)
		_ = json.NewEncoder(w).Encode(&metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
			Status:   metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
			Message: "only the following media types are accepted: text/plain; application/json and application/yaml with g=config.k8s.io;v=v1beta1;as=" + p.kind,
		})
		return
	}
	if form == "" {
		writeText(w, p.text())
		return
	}
	if version == "v1alpha1" {
		w.Header().Set("Warning", fmt.Sprintf(`299 - "This version of the %s endpoint is deprecated. Please use a newer version."`, strings.ToLower(p.kind)))
	}
	object := p.fields()
	object["kind"], object["apiVersion"], object["metadata"] = p.kind, "config.k8s.io/"+version, map[string]any{"name": "kubelet"}
	if form == "application/yaml" {
		text, err := yaml.Marshal(object)
		if err != nil {
			fail(w, http.StatusInternalServerError, err.Error())
			return
		}
		w.Header().Set("Content-Type", form)
		_, _ = w.Write(text)
		return
	}
	writeJSON(w, r, object)
}

// negotiate picks the first form of an Accept header that there is: "" is
// plain text.
func (p zpage) negotiate(accept string) (form, version string, ok bool) {
	if strings.TrimSpace(accept) == "" {
		return "", "", true
	}
	for item := range strings.SplitSeq(accept, ",") {
		form, params, err := mime.ParseMediaType(item)
		if err != nil {
			continue
		}
		switch form {
		case "text/plain", "text/*", "*/*":
			if params["as"] == "" {
				return "", "", true
			}
		case "application/json", "application/yaml":
			if v := params["v"]; params["g"] == "config.k8s.io" && params["as"] == p.kind && (v == "v1alpha1" || v == "v1beta1") {
				return form, v, true
			}
		}
	}
	return "", "", false
}
