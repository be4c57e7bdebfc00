package source

import (
	"regexp"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// The grammar of image references
// (https://pkg.go.dev/github.com/distribution/reference), as far as the
// default pull policy depends on it.
var (
	imageReference = regexp.MustCompile(`^(?:` + imageHost + `(?::[0-9]+)?/)(` + imagePath + `)(?::([\w][\w.-]{0,127}))?(?:@([A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[[:xdigit:]]{32,}))?$`)
	imageID        = regexp.MustCompile(`^[a-f0-9]{64}$`)
	imageDigest    = regexp.MustCompile(`^(?:sha256:[a-f0-9]{64}|sha384:[a-f0-9]{96}|sha512:[a-f0-9]{128})$`)
)

const (
	hostLabel     = `(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])`
	imageHost     = `(?:` + hostLabel + `(?:\.` + hostLabel + `)*|\[[a-fA-F0-9:]+\])`
	pathElement   = `[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*`
	imagePath     = pathElement + `(?:/` + pathElement + `)*`
	maxRepository = 255
	defaultHost   = "docker.io"
)

// defaultPullPolicy returns the pull policy of an image that names none:
// Always for the tag latest, given or meant by leaving tag and digest out,
// else IfNotPresent. What is no image reference is not meant to be latest.
func defaultPullPolicy(image string) v1.PullPolicy {
	if imageID.MatchString(image) {
		return v1.PullIfNotPresent
	}
	host, rest, ok := strings.Cut(image, "/")
	switch {
	case !ok:
		host, rest = defaultHost, "library/"+image
	case host != "localhost" && !strings.ContainsAny(host, ".:") && strings.ToLower(host) == host:
		host, rest = defaultHost, image
	case host == "index.docker.io":
		host = defaultHost
	}
	if host == defaultHost && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	m := imageReference.FindStringSubmatch(host + "/" + rest)
	if m == nil || len(m[1]) > maxRepository {
		return v1.PullIfNotPresent
	}
	tag, digest := m[2], m[3]
	if digest != "" && !imageDigest.MatchString(digest) {
		return v1.PullIfNotPresent
	}
	if tag == "latest" || (tag == "" && digest == "") {
		return v1.PullAlways
	}
	return v1.PullIfNotPresent
}
