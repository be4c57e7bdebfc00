package config

import (
	"encoding/json"
	"fmt"
	"reflect"

	"kubelet/internal/security/podsecurity"
)

func podSecuritySchema() schema {
	return schema{podsecurity.APIVersion, podsecurity.Kind, reflect.TypeFor[podsecurity.Configuration]()}
}

// ReadPodSecurity reads and checks the file of --pod-security-config. The
// error, if any, is of type Errors and lists everything that is wrong. Unknown
// and repeated fields are errors, and so are fields without a value: what was
// meant as a rule must not be lost to a misspelling.
func ReadPodSecurity(name string) (*podsecurity.Configuration, error) {
	doc, err := readDocument(name, podSecuritySchema())
	if err != nil {
		return nil, err
	}
	return doc.podSecurity()
}

func (d *document) podSecurity() (*podsecurity.Configuration, error) {
	found := d.check()
	problems := append(found.wrong, found.odd...)
	d.noValues(d.tree, "", &problems)
	if _, ok := d.tree["podSecurity"]; !ok && len(problems) == 0 {
		problems = append(problems, d.problem("podSecurity", "is missing; nothing would be enforced"))
	}
	data, err := json.Marshal(d.tree)
	if err != nil {
		return nil, Errors{{Source: d.name, Reason: err.Error()}}
	}
	c := &podsecurity.Configuration{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, append(problems, Problem{Source: d.name, Reason: err.Error()}).sorted()
	}
	for _, p := range c.Validate() {
		problems = append(problems, d.problem(p.Field, "%s", p.Reason))
	}
	if len(problems) > 0 {
		return nil, problems.sorted()
	}
	return c, nil
}

// noValues reports keys without a value: whoever writes "images:" and nothing
// more may mean none, or all.
func (d *document) noValues(value any, path string, problems *Errors) {
	switch value := value.(type) {
	case nil:
		*problems = append(*problems, d.problem(path, "has no value; write one, [] for an empty list, or remove the field"))
	case map[string]any:
		for key, inner := range value {
			d.noValues(inner, childPath(path, key), problems)
		}
	case []any:
		for i, inner := range value {
			d.noValues(inner, fmt.Sprintf("%s[%d]", path, i), problems)
		}
	}
}

// readPodSecurity reads the file if there is to be one.
func (p *parser) readPodSecurity() *podsecurity.Configuration {
	if p.flags.PodSecurityConfig == "" {
		return nil
	}
	c, err := ReadPodSecurity(p.flags.PodSecurityConfig)
	if err != nil {
		p.problems = append(p.problems, err.(Errors)...)
	}
	return c
}
