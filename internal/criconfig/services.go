package criconfig

import (
	"net"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubelet/internal/podspec"
)

// serviceEnv is the variables that lead to services
// (https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables):
// those of the pod's namespace unless enableServiceLinks is false, and always
// those of default/kubernetes, by which clients in the cluster find the API
// server.
func (b *Builder) serviceEnv(pod *v1.Pod) (map[string]string, error) {
	env := map[string]string{}
	if b.Services == nil {
		return env, nil
	}
	own, synced := b.Services.Services(pod.Namespace)
	common := own
	if pod.Namespace != metav1.NamespaceDefault {
		var commonSynced bool
		common, commonSynced = b.Services.Services(metav1.NamespaceDefault)
		synced = synced && commonSynced
	}
	// A container keeps its variables for life, so a pod of the API server
	// waits for services to be known. A static pod may be what brings the
	// API server up.
	if !synced && !podspec.IsStatic(pod) {
		return nil, containerErrorf("services have not been read from the API server yet; it is retried when they are")
	}
	links := pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks
	hidden := false
	if links {
		for _, s := range own {
			// As upstream: a service of that name in the pod's own namespace
			// takes the place of the API server's.
			hidden = addServiceEnv(env, s) && s.Name == apiService || hidden
		}
	}
	for _, s := range common {
		if s.Name == apiService && !hidden {
			addServiceEnv(env, s)
		}
	}
	return env, nil
}

// apiService is the name of the API server's service in namespace default.
const apiService = "kubernetes"

// addServiceEnv adds the variables of one service and says whether it has
// any: a service without an address of its own has none.
func addServiceEnv(env map[string]string, s *v1.Service) bool {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return false
	}
	prefix := envName(s.Name)
	env[prefix+"_SERVICE_HOST"] = ip
	env[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			env[prefix+"_SERVICE_PORT_"+envName(p.Name)] = port
		}
		// The form of docker's container links.
		proto := "tcp"
		if p.Protocol != "" {
			proto = strings.ToLower(string(p.Protocol))
		}
		url := proto + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			env[prefix+"_PORT"] = url
		}
		link := prefix + "_PORT_" + port + "_" + strings.ToUpper(proto)
		env[link] = url
		env[link+"_PROTO"] = proto
		env[link+"_PORT"] = port
		env[link+"_ADDR"] = ip
	}
	return true
}

func envName(name string) string {
	return strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}
