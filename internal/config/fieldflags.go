package config

// fieldFlag is a flag that mirrors a field of KubeletConfiguration. The type
// of the field gives the type of the flag.
type fieldFlag struct {
	name   string
	short  string
	field  string // dotted path of JSON names
	group  group
	syntax syntax
	// current flags are not deprecated in favour of the configuration file.
	current bool
	usage   string
}

// fieldFlags returns the upstream flags that mirror fields, in the order of
// the help text.
func fieldFlags() []fieldFlag {
	return []fieldFlag{
		{name: "pod-manifest-path", field: "staticPodPath", group: groupPods, usage: "File or directory with the manifests of static pods; names that begin with a dot are skipped."},
		{name: "file-check-frequency", field: "fileCheckFrequency", group: groupPods, usage: "How often static pod files are read again, beside being watched."},
		{name: "manifest-url", field: "staticPodURL", group: groupPods, usage: "URL that serves manifests of static pods."},
		{name: "manifest-url-header", field: "staticPodURLHeader", group: groupPods, usage: "HTTP headers for --manifest-url as name:value[,name:value]; can be repeated, values of one name add up."},
		{name: "http-check-frequency", field: "httpCheckFrequency", group: groupPods, usage: "How often --manifest-url is fetched."},
		{name: "sync-frequency", field: "syncFrequency", group: groupPods, usage: "Longest time between two reconciliations of a pod that did not change."},
		{name: "max-pods", field: "maxPods", group: groupPods, usage: "Number of pods that the node admits."},
		{name: "pods-per-core", field: "podsPerCore", group: groupPods, usage: "Number of pods for each CPU core, never above --max-pods; 0 for no such limit."},
		{name: "pod-max-pids", field: "podPidsLimit", group: groupPods, usage: "Number of processes that one pod may have; -1 for the node's allocatable number."},
		{name: "allowed-unsafe-sysctls", field: "allowedUnsafeSysctls", group: groupPods, usage: "Namespaced sysctls that pods may set beside the safe ones; a trailing * matches a group."},
		{name: "runonce", field: "runOnce", group: groupPods, usage: "Removed upstream: a start with this set is refused."},

		{name: "container-runtime-endpoint", field: "containerRuntimeEndpoint", group: groupRuntime, usage: "Socket of the container runtime, such as unix:///run/containerd/containerd.sock."},
		{name: "image-service-endpoint", field: "imageServiceEndpoint", group: groupRuntime, usage: "Socket of the image service, if it is not the runtime's."},
		{name: "runtime-request-timeout", field: "runtimeRequestTimeout", group: groupRuntime, usage: "Deadline of a runtime call that is not a pull, a log, an exec or an attach."},
		{name: "serialize-image-pulls", field: "serializeImagePulls", group: groupRuntime, usage: "Pull one image at a time."},
		{name: "registry-qps", field: "registryPullQPS", group: groupRuntime, usage: "Image pulls started a second; 0 for no limit."},
		{name: "registry-burst", field: "registryBurst", group: groupRuntime, usage: "Image pulls that may start at once while --registry-qps holds on average."},
		{name: "container-log-max-size", field: "containerLogMaxSize", group: groupRuntime, usage: "Size at which a container's log is rotated."},
		{name: "container-log-max-files", field: "containerLogMaxFiles", group: groupRuntime, usage: "Log files kept for a container, at least 2."},

		{name: "register-node", field: "registerNode", group: groupNode, usage: "Create the Node object if it is not there; of no effect without --kubeconfig."},
		{name: "register-with-taints", field: "registerWithTaints", group: groupNode, usage: "Taints of a newly registered node, as key=value:effect[,key=value:effect]."},
		{name: "provider-id", field: "providerID", group: groupNode, current: true, usage: "Identity of the machine in its cloud."},
		{name: "pod-cidr", field: "podCIDR", group: groupNode, usage: "Range of the pods' IP addresses; standalone only, the API server says it otherwise."},
		{name: "node-status-update-frequency", field: "nodeStatusUpdateFrequency", group: groupNode, usage: "How often the node's status is computed."},
		{name: "node-status-max-images", field: "nodeStatusMaxImages", group: groupNode, usage: "Images listed in the node's status; -1 for all."},
		{name: "fail-swap-on", field: "failSwapOn", group: groupNode, usage: "Refuse to start while swap is on."},
		{name: "fail-cgroupv1", field: "failCgroupV1", group: groupNode, current: true, usage: "Refuse to start on a machine with cgroup v1."},
		{name: "protect-kernel-defaults", field: "protectKernelDefaults", group: groupNode, usage: "Refuse to start if kernel settings are not as needed, instead of setting them."},
		{name: "make-iptables-util-chains", field: "makeIPTablesUtilChains", group: groupNode, usage: "Keep the iptables chains that other components look for."},
		{name: "max-open-files", field: "maxOpenFiles", group: groupNode, usage: "Limit of open files of the kubelet."},
		{name: "oom-score-adj", field: "oomScoreAdj", group: groupNode, usage: "oom_score_adj of the kubelet, -1000 to 1000."},
		{name: "kernel-memcg-notification", field: "kernelMemcgNotification", group: groupNode, usage: "Let the kernel tell when memory crosses an eviction threshold."},

		{name: "cluster-dns", field: "clusterDNS", group: groupNetwork, usage: "IP addresses of the cluster's DNS servers, for pods with dnsPolicy ClusterFirst."},
		{name: "cluster-domain", field: "clusterDomain", group: groupNetwork, usage: "DNS domain of the cluster, searched before the host's domains."},
		{name: "resolv-conf", field: "resolvConf", group: groupNetwork, usage: "File that pods' DNS settings are based on."},
		{name: "hairpin-mode", field: "hairpinMode", group: groupNetwork, usage: "promiscuous-bridge, hairpin-veth or none; the runtime decides."},

		{name: "cgroups-per-qos", field: "cgroupsPerQOS", group: groupResources, usage: "Keep a cgroup for each QoS class and each pod."},
		{name: "cgroup-driver", field: "cgroupDriver", group: groupResources, usage: "cgroupfs or systemd, for a runtime that does not say."},
		{name: "cgroup-root", field: "cgroupRoot", group: groupResources, usage: "cgroup under which pods live."},
		{name: "kubelet-cgroups", field: "kubeletCgroups", group: groupResources, usage: "cgroup that the kubelet is put into."},
		{name: "system-cgroups", field: "systemCgroups", group: groupResources, usage: "cgroup for all processes that are in none; needs --cgroup-root."},
		{name: "cpu-cfs-quota", field: "cpuCFSQuota", group: groupResources, usage: "Enforce CPU limits by quota."},
		{name: "cpu-cfs-quota-period", field: "cpuCFSQuotaPeriod", group: groupResources, usage: "Period of the CPU quota, 1ms to 1s."},
		{name: "kube-reserved", field: "kubeReserved", group: groupResources, usage: "Resources kept for Kubernetes' own processes, as cpu=200m,memory=500Mi,ephemeral-storage=1Gi,pid=1000."},
		{name: "kube-reserved-cgroup", field: "kubeReservedCgroup", group: groupResources, usage: "cgroup that --kube-reserved is enforced on."},
		{name: "system-reserved", field: "systemReserved", group: groupResources, usage: "Resources kept for everything else, in the form of --kube-reserved."},
		{name: "system-reserved-cgroup", field: "systemReservedCgroup", group: groupResources, usage: "cgroup that --system-reserved is enforced on."},
		{name: "reserved-cpus", field: "reservedSystemCPUs", group: groupResources, usage: "CPUs kept from pods, as 0-1,4; replaces the CPU amounts of the reservations."},
		{name: "enforce-node-allocatable", field: "enforceNodeAllocatable", group: groupResources, usage: "What is enforced: pods, kube-reserved, kube-reserved-compressible, system-reserved, system-reserved-compressible, or none."},
		{name: "qos-reserved", field: "qosReserved", group: groupResources, usage: "Share of requests that lower QoS classes may not use, as memory=50%."},
		{name: "cpu-manager-policy", field: "cpuManagerPolicy", group: groupResources, usage: "none or static."},
		{name: "cpu-manager-policy-options", field: "cpuManagerPolicyOptions", group: groupResources, syntax: onePair, usage: "One key=value option of the CPU manager; can be repeated."},
		{name: "cpu-manager-reconcile-period", field: "cpuManagerReconcilePeriod", group: groupResources, usage: "How often assigned CPUs are checked."},
		{name: "memory-manager-policy", field: "memoryManagerPolicy", group: groupResources, usage: "None or Static."},
		{name: "reserved-memory", field: "reservedMemory", group: groupResources, usage: "Memory kept on NUMA nodes, as 0:memory=1Gi,hugepages-2Mi=100Mi; can be repeated."},
		{name: "topology-manager-policy", field: "topologyManagerPolicy", group: groupResources, usage: "none, best-effort, restricted or single-numa-node."},
		{name: "topology-manager-scope", field: "topologyManagerScope", group: groupResources, usage: "container or pod."},
		{name: "topology-manager-policy-options", field: "topologyManagerPolicyOptions", group: groupResources, usage: "key=value options of the topology manager."},

		{name: "eviction-hard", field: "evictionHard", group: groupEviction, syntax: lessThan, usage: "Thresholds that evict at once, as memory.available<100Mi,nodefs.available<10%."},
		{name: "eviction-soft", field: "evictionSoft", group: groupEviction, syntax: lessThan, usage: "Thresholds that evict after their grace period."},
		{name: "eviction-soft-grace-period", field: "evictionSoftGracePeriod", group: groupEviction, usage: "Grace periods of the soft thresholds, as memory.available=1m30s."},
		{name: "eviction-pressure-transition-period", field: "evictionPressureTransitionPeriod", group: groupEviction, usage: "How long a pressure condition stays after the pressure."},
		{name: "eviction-max-pod-grace-period", field: "evictionMaxPodGracePeriod", group: groupEviction, usage: "Longest grace period, in seconds, of a pod evicted by a soft threshold; negative for the pod's own."},
		{name: "eviction-minimum-reclaim", field: "evictionMinimumReclaim", group: groupEviction, usage: "What an eviction frees at least, as imagefs.available=2Gi."},
		{name: "image-gc-high-threshold", field: "imageGCHighThresholdPercent", group: groupEviction, usage: "Disk usage in percent at which unused images are removed; 100 for never."},
		{name: "image-gc-low-threshold", field: "imageGCLowThresholdPercent", group: groupEviction, usage: "Disk usage in percent down to which unused images are removed."},
		{name: "minimum-image-ttl-duration", field: "imageMinimumGCAge", group: groupEviction, usage: "Time for which an unused image is kept at least."},
		{name: "local-storage-capacity-isolation", field: "localStorageCapacityIsolation", group: groupEviction, usage: "Count and limit ephemeral storage."},
		{name: "volume-stats-agg-period", field: "volumeStatsAggPeriod", group: groupEviction, usage: "How often volume usage is measured; negative for never."},
		{name: "volume-plugin-dir", field: "volumePluginDir", group: groupEviction, usage: "Directory of FlexVolume drivers."},
		{name: "enable-controller-attach-detach", field: "enableControllerAttachDetach", group: groupEviction, usage: "Leave attaching and detaching volumes to the controller manager."},

		{name: "kube-api-content-type", field: "contentType", group: groupAPIServer, usage: "Content type of requests to the API server."},
		{name: "kube-api-qps", field: "kubeAPIQPS", group: groupAPIServer, usage: "Requests a second to the API server, without events and heartbeats; 0 for the default."},
		{name: "kube-api-burst", field: "kubeAPIBurst", group: groupAPIServer, usage: "Requests to the API server that may go out at once."},
		{name: "event-qps", field: "eventRecordQPS", group: groupAPIServer, usage: "Events a second; 0 for no limit."},
		{name: "event-burst", field: "eventBurst", group: groupAPIServer, usage: "Events that may go out at once."},
		{name: "rotate-certificates", field: "rotateCertificates", group: groupAPIServer, usage: "Renew the client certificate through the API server."},
		{name: "rotate-server-certificates", field: "serverTLSBootstrap", group: groupAPIServer, usage: "Get the serving certificate from the API server and renew it."},

		{name: "enable-server", field: "enableServer", group: groupServer, usage: "Serve the kubelet's HTTPS API."},
		{name: "address", field: "address", group: groupServer, syntax: ipAddress, usage: "IP address to serve on; 0.0.0.0 or :: for all."},
		{name: "port", field: "port", group: groupServer, usage: "Port of the HTTPS API."},
		{name: "read-only-port", field: "readOnlyPort", group: groupServer, usage: "Port that serves pods and metrics to everybody; 0 for none."},
		{name: "healthz-bind-address", field: "healthzBindAddress", group: groupServer, syntax: ipAddress, usage: "IP address that healthz is served on."},
		{name: "healthz-port", field: "healthzPort", group: groupServer, usage: "Port of healthz; 0 for none."},
		{name: "anonymous-auth", field: "authentication.anonymous.enabled", group: groupServer, usage: "Accept requests without credentials, as system:anonymous."},
		{name: "authentication-token-webhook", field: "authentication.webhook.enabled", group: groupServer, usage: "Ask the API server (TokenReview) about bearer tokens."},
		{name: "authentication-token-webhook-cache-ttl", field: "authentication.webhook.cacheTTL", group: groupServer, usage: "How long an answer about a token is kept."},
		{name: "client-ca-file", field: "authentication.x509.clientCAFile", group: groupServer, usage: "Authorities whose client certificates are accepted."},
		{name: "authorization-mode", field: "authorization.mode", group: groupServer, usage: "AlwaysAllow or Webhook."},
		{name: "authorization-webhook-cache-authorized-ttl", field: "authorization.webhook.cacheAuthorizedTTL", group: groupServer, usage: "How long a permission is kept."},
		{name: "authorization-webhook-cache-unauthorized-ttl", field: "authorization.webhook.cacheUnauthorizedTTL", group: groupServer, usage: "How long a refusal is kept."},
		{name: "tls-cert-file", field: "tlsCertFile", group: groupServer, usage: "Serving certificate with its chain; made and self-signed if not given."},
		{name: "tls-private-key-file", field: "tlsPrivateKeyFile", group: groupServer, usage: "Key of --tls-cert-file."},
		{name: "tls-cipher-suites", field: "tlsCipherSuites", group: groupServer, usage: "Cipher suites by their names in Go, for TLS 1.2; Go's choice if empty."},
		{name: "tls-min-version", field: "tlsMinVersion", group: groupServer, usage: "Lowest TLS version: VersionTLS12 or VersionTLS13 (10 and 11 are weak)."},
		{name: "enable-debugging-handlers", field: "enableDebuggingHandlers", group: groupServer, usage: "Serve logs, exec, attach and port-forward."},
		{name: "contention-profiling", field: "enableContentionProfiling", group: groupServer, usage: "Profile blocking, if profiling is served."},
		{name: "streaming-connection-idle-timeout", field: "streamingConnectionIdleTimeout", group: groupServer, usage: "Of no effect any more, upstream either."},

		{name: "feature-gates", field: "featureGates", group: groupGeneral, usage: "Feature gates as name=true[,name=false]; docs/compatibility.md lists them."},

		{name: "v", short: "v", field: "logging.verbosity", group: groupLogging, current: true, usage: "Verbosity of the log, 0 to 10."},
		{name: "vmodule", field: "logging.vmodule", group: groupLogging, current: true, usage: "Verbosity of single source files, as pattern=N[,pattern=N]; text format only."},
		{name: "logging-format", field: "logging.format", group: groupLogging, usage: "text or json."},
		{name: "log-flush-frequency", field: "logging.flushFrequency", group: groupLogging, current: true, usage: "Longest time that a log line may be held back."},
		{name: "log-text-split-stream", field: "logging.options.text.splitStream", group: groupLogging, usage: "Text: errors to stderr, the rest to stdout. Needs the gate LoggingAlphaOptions."},
		{name: "log-text-info-buffer-size", field: "logging.options.text.infoBufferSize", group: groupLogging, usage: "Text: buffer of the split stdout. Needs the gate LoggingAlphaOptions."},
		{name: "log-json-split-stream", field: "logging.options.json.splitStream", group: groupLogging, usage: "JSON: errors to stderr, the rest to stdout. Needs the gate LoggingAlphaOptions."},
		{name: "log-json-info-buffer-size", field: "logging.options.json.infoBufferSize", group: groupLogging, usage: "JSON: buffer of the split stdout. Needs the gate LoggingAlphaOptions."},
	}
}
