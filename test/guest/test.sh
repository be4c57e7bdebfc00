#!/bin/bash
# Builds the tests and the kubelet on the host and runs them in the guest: the
# cgroup package's own tests, and a static pod with limits; on cgroup v2 with
# both drivers, then on v1 with systemd. KUBELET=file tests another kubelet. What
# failed and may be chance is run again, as in stages.sh.
. "$(dirname "$0")/../setup/lib.sh"
cd "$ROOT"

WORK=$(mktemp -d "$CACHE/guest/test.XXXXXX")
trap 'rm -rf "$WORK"' EXIT

build() {
  export CGO_ENABLED=0
  local name=${KUBELET:-}
  if [ -z "$name" ]; then
    make --no-print-directory build OUT="$WORK/kubelet"
  else
    [ "$name" != upstream-kubelet ] || name=$CACHE/controlplane-$KUBERNETES_VERSION/upstream-kubelet
    cp -L "$name" "$WORK/$(basename "$name")"
  fi
  mkdir -p "$WORK/cgroup" "$WORK/cache/images" "$WORK/cache/containerd-$CONTAINERD_VERSION/bin"
  go test -c -ldflags '-s -w' -o "$WORK/guest.test" ./test/guest
  go test -c -ldflags '-s -w' -o "$WORK/cgroup/cgroup.test" ./internal/cgroup
  cp -r test/guest/testdata "$WORK/"
  cp -r internal/cgroup/testdata "$WORK/cgroup/" 2>/dev/null || true
  cp "$CACHE"/images/{agent,pause}.tar "$WORK/cache/images/"
  cp "$CACHE/containerd-$CONTAINERD_VERSION"/bin/* "$WORK/cache/containerd-$CONTAINERD_VERSION/bin/"
}
step "building the tests for the guest" build

go build -o "$WORK.report" ./test/report
trap 'rm -rf "$WORK" "$WORK.report" "$WORK.failed"' EXIT

FAILED=0
# in_guest NAME KERNEL_ARGUMENTS ENVIRONMENT PROGRAM: run a test program of the
# job, with a report as of go test.
in_guest() {
  local failed=$WORK.failed package pattern
  say "$1"
  run_in_guest "$@" . -again "$failed" && return
  read -r package pattern <"$failed" || { FAILED=1; return; }
  say "running again: $1 $pattern"
  if run_in_guest "$@" "$pattern"; then flaky "$package" "$pattern"; else FAILED=1; fi
}

# run_in_guest NAME KERNEL_ARGUMENTS ENVIRONMENT PROGRAM PATTERN [REPORT'S FLAGS...]
run_in_guest() {
  local name=$1 arguments=$2 environment=$3 program=$4 pattern=$5 kubelet
  shift 5
  kubelet=/job/files/$(basename "${KUBELET:-kubelet}")
  test/guest/run.sh -t 1500 ${arguments:+-a "$arguments"} "$WORK" \
    "export KUBELET_CACHE=/job/files/cache KUBELET_TEST_PRIVILEGED=1 KUBELET_TEST_GUEST=1 KUBELET=$kubelet $environment
     cd /job/files/$(dirname "$program") && ./$(basename "$program") -test.run '$pattern' -test.v=test2json -test.timeout 20m; code=\$?
     [ \$code = 0 ] || echo FAIL
     exit \$code" 2>&1 | go tool test2json -t -p "$name" | "$WORK.report" -tests "$@"
}

for hierarchy in "" systemd.unified_cgroup_hierarchy=0; do
  v=${hierarchy:+v1}
  for driver in systemd ${v:-cgroupfs}; do
    [ "$driver" = v1 ] || in_guest "cgroup-${v:-v2}-$driver" "$hierarchy" KUBELET_TEST_CGROUP_DRIVER=$driver cgroup/cgroup.test
  done
  for containerd in ${CONTAINERD:-2.4 1.6}; do
    in_guest "pod-${v:-v2}-containerd-$containerd" "$hierarchy" CONTAINERD=$containerd guest.test
  done
done
exit $FAILED
