#!/bin/bash
# The stages of `make test`, all of them ("test") or one by its name. All are run
# even if one fails; the end says which did, what took how long and how busy the
# processors were, and what was FLAKY.
#
# All together test nothing twice: "race" runs as root and so has the tests of
# "unit" and "root" in internal and cmd, "rest" has the others, and the cluster
# tests are run in part on the older containerd.
. "$(dirname "$0")/setup/lib.sh"
cd "$ROOT"

REPORT=$CACHE/report
export FLAKY
FLAKY=$(mktemp "$CACHE/flaky.XXXXXX")
trap 'rm -f "$FLAKY"' EXIT

# go_test [-tests] [-again] FLAGS... PACKAGES...: go test with a readable report,
# a line for each test with -tests. -again runs what failed and may be chance a
# second time, package by package: what passes then is named as FLAKY and does
# not fail the stage.
go_test() {
  local report=() flags=() packages=() again= argument failed package pattern rc=0
  for argument in "$@"; do
    case $argument in
      -tests) report=(-tests) ;;
      -again) again=1 ;;
      ./* | kubelet/*) packages+=("$argument") ;;
      *) flags+=("$argument") ;;
    esac
  done
  failed=$(mktemp "$CACHE/failed.XXXXXX")
  # The exit code is the report's, which fails when anything did.
  if { go test -json "${flags[@]}" "${packages[@]}" 2>&1 || true; } | "$REPORT" "${report[@]}" -again "$failed"; then
    rm -f "$failed"
    return 0
  fi
  [ -n "$again" ] && [ -s "$failed" ] || rc=1
  while [ $rc = 0 ] && IFS=$'\t' read -r package pattern <&3; do
    say "running again, alone: $package $pattern"
    { go test -json "${flags[@]}" -count=1 -run "$pattern" "$package" 2>&1 || true; } | "$REPORT" "${report[@]}" || rc=1
  done 3<"$failed"
  if [ $rc = 0 ]; then
    while IFS=$'\t' read -r package pattern; do flaky "$package" "$pattern"; done <"$failed"
  fi
  rm -f "$failed"
  return $rc
}

prepare() { go build -o "$REPORT" ./test/report; }

# runtime: install what RUNTIME asks for; runc is there always.
runtime() { if [ "${RUNTIME:-runc}" != runc ]; then test/setup/deps.sh "$RUNTIME"; fi; }

# The versions of containerd to test on.
runtimes() { echo "${CONTAINERD:-2.4 1.6}"; }

privileged() {
  need_root "$1"
  export KUBELET_TEST_PRIVILEGED=1
}

stage_setup() {
  need_root setup
  test/setup/deps.sh packages containerd runc images
  test/setup/controlplane.sh
  test/setup/metricsserver.sh
  test/setup/conformance.sh
  case " $stages " in *" v2 "* | *" setup ") test/guest/setup.sh ;; esac
}

stage_lint() {
  local bad
  bad=$(gofmt -l cmd internal test bench)
  [ -z "$bad" ] || die "not formatted, run gofmt -w: $bad"
  go vet ./...
  local f
  for f in hack/*.sh test/*.sh test/*/*.sh .ci/run; do bash -n "$f"; done
}

stage_unit() { go_test ./...; }

# The simulation has a single goroutine: "rest" runs it without the detector,
# and further.
stage_race() {
  command -v gcc >/dev/null || test/setup/deps.sh compiler
  [ -z "$all" ] || privileged "the stage race"
  SIM_SEEDS=50 CGO_ENABLED=1 go_test -again ${all:+-vet=off} -race -p 2 ./internal/... ./cmd/...
}

# What the stage race leaves out.
stage_rest() {
  local packages rc=0
  packages=$(go list ./... | grep -vE '^kubelet/(internal|cmd|test/(node|cluster|guest))(/|$)')
  go_test -again ${all:+-vet=off} $packages || rc=1
  go_test -again ${all:+-vet=off} -run '^TestSimulation' ./internal/worker || rc=1
  return $rc
}

stage_root() {
  privileged "the stage root"
  go_test -again -p 1 ./internal/... ./cmd/...
}

stage_diff() {
  local dir rc=0
  for dir in test/tooling/*diff; do
    say "$dir"
    (cd "$dir" && go_test -again ./...) || rc=1
  done
  return $rc
}

stage_node() {
  privileged "the stage node"
  test/setup/deps.sh
  runtime
  local v rc=0
  for v in $(runtimes); do
    say "node tests on containerd $v"
    CONTAINERD=$v go_test -tests -again -count=1 -timeout 15m -parallel 6 ./test/node || rc=1
  done
  return $rc
}

# What of the cluster tests meets the runtime most.
MEETS_RUNTIME='RunningPodStatus|InitContainersAndSharedVolume|FailingInitContainer|RestartPolicies|GracefulAndForcedStop|KilledFromOutside|MissingImages|RuntimeClass|KubeletKilledAtRandom|ContainerdKilled|KubectlVerbs|KubectlLogs|VolumeContents|OwnUsers|EphemeralContainerTargets|NodeObject|MirrorPod|Dashboards'

stage_cluster() {
  privileged "the stage cluster"
  test/setup/deps.sh
  test/setup/controlplane.sh
  test/setup/metricsserver.sh
  runtime
  local v part rc=0
  for v in $(runtimes); do
    part=
    if [ -n "$all" ] && [ -z "${CONTAINERD:-}" ] && [ "$v" != 2.4 ]; then part="^Test($MEETS_RUNTIME)\$"; fi
    say "cluster tests on containerd $v${part:+, those that meet the runtime most (all of them: make test-cluster)}"
    CONTAINERD=$v go_test -tests -again -count=1 -timeout 25m -parallel 8 ${part:+-run "$part"} ./test/cluster || rc=1
  done
  return $rc
}

stage_v2() {
  need_root "the stage v2"
  test/setup/deps.sh
  case " $stages " in *" v2 "* | *" setup ") test/guest/setup.sh ;; esac
  test/guest/test.sh
}

# What can be set in the environment is in docs/performance.md.
stage_bench() {
  need_root bench
  test/setup/deps.sh
  test/setup/controlplane.sh
  go build -o bin/bench ./bench
  local flags=() name
  if [ -n "${SHORT:-}" ]; then
    flags=(-scenario start,batch,kill,idle,restart,exec,logs -rounds 1 -pods 6 -idle 10s -settle 5s -batches 50 -churn 20)
  fi
  for name in SCENARIO ROUNDS PODS IDLE SETTLE CHURN LOG BATCHES KUBELET DOCUMENT; do
    [ -z "${!name:-}" ] || flags+=("-${name,,}" "${!name}")
  done
  bin/bench "${flags[@]}" ${KEEP:+-keep} ${RESULTS:+-out "$RESULTS"}
}

# FOCUS, SKIP, SLOW, ANY, KUBELET, RUNTIME, PROCS, KEEP and CONTAINERD say what is
# judged; see test/conformance. Among other stages it is a part of the whole:
# without the tests that watch a pod for four minutes, and without those that
# repeat others for another kind of container or volume.
stage_conformance() {
  need_root conformance
  runtime
  [ -z "$all" ] ||
    SKIP='\*not\* be restarted|monotonically increasing|infrequently|Probing restartable|Projected (configMap|secret|downwardAPI)'
  test/setup/deps.sh
  test/setup/controlplane.sh
  test/setup/conformance.sh
  go build -o bin/conformance ./test/conformance
  bin/conformance ${FOCUS:+-focus "$FOCUS"} ${SKIP:+-skip "$SKIP"} ${SLOW:+-slow} ${ANY:+-any} ${KUBELET:+-kubelet "$KUBELET"} \
    ${RUNTIME:+-runtime "$RUNTIME"} ${PROCS:+-procs "$PROCS"} ${KEEP:+-keep}
}

stage_fuzz() {
  local pkg name
  go list -f '{{.ImportPath}} {{.Dir}}' ./internal/... | while read -r pkg dir; do
    { grep -hos '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go || true; } | sed 's/^func //' | while read -r name; do
      say "$pkg $name"
      go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-10s}" -parallel 2 "$pkg" </dev/null
    done
  done
}

# all is set if all stages are run.
all=
# run STAGE: run it and keep time.
SUMMARY=()
FAILED=0
# jiffies: of all processors since boot, busy and in all.
jiffies() { awk '$1 == "cpu" { print $2 + $3 + $4 + $7 + $8, $2 + $3 + $4 + $5 + $6 + $7 + $8 }' /proc/stat; }
run() {
  local start=$SECONDS rc=0 busy whole busy_now whole_now name
  read -r busy whole < <(jiffies)
  : >"$FLAKY"
  printf '\n=== %s\n' "$1"
  # Not in a condition: there, bash would go on after a failed command.
  set +e
  (set -e; "stage_$1")
  rc=$?
  set -e
  local result=ok
  if [ $rc != 0 ]; then
    result=FAIL
    FAILED=$((FAILED + 1))
  fi
  read -r busy_now whole_now < <(jiffies)
  SUMMARY+=("$(printf '%-5s %-11s %4d s  processors %3d %% busy' $result "$1" $((SECONDS - start)) $((100 * (busy_now - busy) / (whole_now - whole + 1))))")
  while read -r name; do SUMMARY+=("      FLAKY $name"); done <"$FLAKY"
}

case ${1:-} in
  test) stages="setup lint race rest diff node cluster conformance v2" all=1 ;;
  setup | lint | unit | race | rest | root | diff | node | cluster | v2 | fuzz | bench | conformance) stages=$1 ;;
  *) die "usage: $0 test|setup|lint|unit|race|rest|root|diff|node|cluster|v2|fuzz|bench|conformance" ;;
esac
command -v go >/dev/null || die "go is missing: install Go 1.26 or newer from https://go.dev/dl"
# Without root most would fail one by one; say so once.
[ "$stages" != "${stages#* }" ] && need_root "make test"
prepare
for s in $stages; do run "$s"; done

printf '\n'
printf '%s\n' "${SUMMARY[@]}"
if [ $FAILED != 0 ]; then
  printf 'FAILED: %d of %d stages in %d s\n' $FAILED $(wc -w <<<"$stages") $SECONDS
  exit 1
fi
printf 'ok: %d stages in %d s\n' $(wc -w <<<"$stages") $SECONDS
