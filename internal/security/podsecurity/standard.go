package podsecurity

import (
	"cmp"
	"slices"

	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// rule is one check of the Pod Security Standards in one version.
type rule struct {
	id     policy.CheckID
	check  policy.CheckPodFn
	places []place
	advice string
}

// newest is the version of the standards that this kubelet is of.
func newest() api.Version { return api.MajorMinorVersion(1, 37) }

// standardRules lists the checks of a level in a version, baseline before
// restricted. The library's own evaluator would do, but does not say which
// check it was that forbids a pod; a test holds that both agree.
func standardRules(level api.Level, version api.Version) []rule {
	if level == api.LevelPrivileged {
		return nil
	}
	var rules []rule
	overridden := map[policy.CheckID]bool{}
	checks := policy.DefaultChecks()
	slices.SortFunc(checks, func(a, b policy.Check) int {
		return cmp.Or(api.CompareLevels(a.Level, b.Level), cmp.Compare(a.ID, b.ID))
	})
	for _, c := range checks {
		if c.Level == api.LevelRestricted && level != api.LevelRestricted {
			continue
		}
		// Versions are in rising order; the last that is not newer holds.
		var holds *policy.VersionedCheck
		for i := range c.Versions {
			if !version.Older(c.Versions[i].MinimumVersion) {
				holds = &c.Versions[i]
			}
		}
		if holds == nil {
			continue
		}
		for _, id := range holds.OverrideCheckIDs {
			overridden[id] = true
		}
		known := known[c.ID]
		rules = append(rules, rule{id: c.ID, check: holds.CheckPod, places: known.places, advice: cmp.Or(known.advice, "change the pod")})
	}
	return slices.DeleteFunc(rules, func(r rule) bool { return overridden[r.id] })
}
