package image

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// reference is a parsed image name. The grammar is that of the distribution
// project (https://github.com/distribution/reference), which registries and
// runtimes share, with Docker's short names: "nginx" is
// docker.io/library/nginx.
type reference struct {
	original string
	domain   string // with port
	path     string
	tag      string // defaultTag if neither tag nor digest was given
	digest   string
	tagged   bool // the tag was given
}

const (
	defaultTag    = "latest"
	defaultDomain = "docker.io"
	maxName       = 255
	maxTag        = 128
)

var (
	domainPattern = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$`)
	pathPattern   = regexp.MustCompile(`^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$`)
	tagPattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	hexPattern    = regexp.MustCompile(`^[a-f0-9]+$`)
)

// digestLengths are the hexadecimal digits of the digest algorithms.
func digestLength(algorithm string) int {
	switch algorithm {
	case "sha256":
		return 64
	case "sha384":
		return 96
	case "sha512":
		return 128
	}
	return 0
}

// parseReference splits an image name and fills in what it leaves out.
func parseReference(s string) (reference, error) {
	r := reference{original: s}
	if len(s) == 64 && hexPattern.MatchString(s) {
		return r, errors.New("64 hexadecimal digits are an image id, not a name")
	}
	rest, digest, hasDigest := strings.Cut(s, "@")
	if hasDigest {
		algorithm, digits, _ := strings.Cut(digest, ":")
		if want := digestLength(algorithm); want == 0 || len(digits) != want || !hexPattern.MatchString(digits) {
			return r, fmt.Errorf("invalid digest %q", digest)
		}
		r.digest = digest
	}
	r.domain, r.path = splitDomain(rest)
	if name, tag, ok := strings.Cut(r.path, ":"); ok {
		if len(tag) > maxTag || !tagPattern.MatchString(tag) {
			return r, fmt.Errorf("invalid tag %q", tag)
		}
		r.path, r.tag, r.tagged = name, tag, true
	} else if !hasDigest {
		r.tag = defaultTag
	}
	switch {
	case s == "":
		return r, errors.New("the name is empty")
	case !domainPattern.MatchString(r.domain):
		// The grammar lets what cannot be a host begin a path ("a_b.c/d").
		if r.path = r.domain + "/" + r.path; !pathPattern.MatchString(r.path) {
			return r, fmt.Errorf("invalid registry %q", r.domain)
		}
		r.domain = ""
	case strings.ToLower(r.path) != r.path:
		return r, fmt.Errorf("repository %q must be in lower case", r.path)
	case !pathPattern.MatchString(r.path):
		return r, fmt.Errorf("invalid repository %q", r.path)
	}
	if len(r.path) > maxName {
		return r, fmt.Errorf("the repository has more than %d characters", maxName)
	}
	return r, nil
}

// splitDomain tells a registry from the first element of a path: it holds a
// dot or a port, is localhost, or has an upper-case letter.
func splitDomain(s string) (domain, path string) {
	first, rest, ok := strings.Cut(s, "/")
	if !ok || (!strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first) {
		domain, path = defaultDomain, s
	} else {
		domain, path = first, rest
	}
	if domain == "index.docker.io" {
		domain = defaultDomain
	}
	if domain == defaultDomain && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	return domain, path
}

// repository is the full name without tag and digest.
func (r reference) repository() string {
	if r.domain == "" {
		return r.path
	}
	return r.domain + "/" + r.path
}

// pullName is the name as the user wrote it, with the default tag if there is
// neither tag nor digest. Short names stay short: what they stand for is the
// runtime's to say.
func (r reference) pullName() string {
	if r.digest == "" && !r.tagged {
		return r.original + ":" + r.tag
	}
	return r.original
}
