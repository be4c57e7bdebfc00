#!/bin/bash
# Builds metrics-server, which reads /metrics/resource of kubelets for
# `kubectl top` and for the horizontal pod autoscaler. Takes about five minutes
# on two cores, once.
. "$(dirname "$0")/lib.sh"

metrics_server() {
  local dir=$CACHE/metrics-server-$METRICS_SERVER_VERSION
  [ -x "$dir/metrics-server" ] && return
  rm -rf "$dir.tmp"
  mkdir -p "$dir.tmp"
  # From an empty folder, so that the project's go.mod has no say.
  build_metrics_server() {
    cd "$dir.tmp" && GOBIN=$dir.tmp GOFLAGS= CGO_ENABLED=0 go install -ldflags "-s -w" \
      "sigs.k8s.io/metrics-server/cmd/metrics-server@$METRICS_SERVER_VERSION"
  }
  fetch "building metrics-server $METRICS_SERVER_VERSION (about five minutes, once)" build_metrics_server
  rm -rf "$dir"
  mv "$dir.tmp" "$dir"
}

with_lock metrics-server metrics_server
