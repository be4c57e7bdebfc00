#!/bin/bash
# Builds kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy and,
# as a peer to check the tests themselves against, the upstream kubelet: one binary
# under four names. Takes about 5 to 10 minutes on two cores, once.
. "$(dirname "$0")/lib.sh"

# The version must parse: clients and the kubelet ask for it.
LDFLAGS="-s -w -X k8s.io/component-base/version.gitVersion=$KUBERNETES_VERSION -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37 -X k8s.io/component-base/version.gitCommit=0000000000000000000000000000000000000000"

controlplane() {
  local src=$ROOT/test/tooling dir=$CACHE/controlplane-$KUBERNETES_VERSION stamp
  stamp=$(cat "$src/controlplane/main.go" "$src/go.sum" | sha256sum | cut -c1-16)
  [ -f "$dir/$stamp.done" ] && return
  mkdir -p "$dir"
  build_controlplane() {
    cd "$src" && CGO_ENABLED=0 go build -ldflags "$LDFLAGS" -o "$dir/controlplane.new" ./controlplane
  }
  fetch "building the control plane $KUBERNETES_VERSION (5 to 10 minutes on two cores, once)" build_controlplane
  mv "$dir/controlplane.new" "$dir/controlplane"
  local name
  for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy upstream-kubelet; do
    ln -sf controlplane "$dir/$name"
  done
  rm -f "$dir"/*.done
  touch "$dir/$stamp.done"
}

with_lock controlplane controlplane
