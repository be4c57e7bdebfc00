#!/bin/bash
# The stages of `make test`, all of them ("test") or one by its name. All are run
# even if one fails; the end says which did and what took how long.
. "$(dirname "$0")/setup/lib.sh"
cd "$ROOT"

REPORT=$CACHE/report
# go_test [-tests] [-again] ARGS...: go test with a readable report. -again runs
# tests that failed a second time by themselves: what passes then is named as
# FLAKY and does not fail the stage.
go_test() {
  local each= again= json
  if [ "$1" = -tests ]; then each=-tests; shift; fi
  if [ "$1" = -again ]; then again=1; shift; fi
  json=$(mktemp "$CACHE/go-test.XXXXXX.json")
  # The exit code is the report's, which fails when anything did.
  if { go test -json "$@" 2>&1 || true; } | tee "$json" | "$REPORT" $each; then
    rm -f "$json"
    return 0
  fi
  local failed
  failed=$(grep '"Action":"fail"' "$json" | grep -o '"Test":"[^"/]*"' | cut -d'"' -f4 | sort -u | paste -sd'|')
  rm -f "$json"
  [ -n "$again" ] && [ -n "$failed" ] || return 1
  say "running again, alone: $failed"
  { go test -json -run "^($failed)\$" "$@" 2>&1 || true; } | "$REPORT" $each || return 1
  say "FLAKY (failed first, then passed): $failed"
}

prepare() { go build -o "$REPORT" ./test/report; }

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

stage_race() {
  command -v gcc >/dev/null || test/setup/deps.sh compiler
  CGO_ENABLED=1 go_test -race -p 2 ./internal/... ./cmd/...
}

stage_root() {
  privileged "the stage root"
  go_test -p 1 ./internal/... ./cmd/...
}

stage_diff() {
  local dir rc=0
  for dir in test/tooling/*diff; do
    say "$dir"
    (cd "$dir" && go_test ./...) || rc=1
  done
  return $rc
}

stage_node() {
  privileged "the stage node"
  test/setup/deps.sh
  local v rc=0
  for v in $(runtimes); do
    say "node tests on containerd $v"
    CONTAINERD=$v go_test -tests -again -count=1 -timeout 15m -parallel 6 ./test/node || rc=1
  done
  return $rc
}

stage_cluster() {
  privileged "the stage cluster"
  test/setup/deps.sh
  test/setup/controlplane.sh
  test/setup/metricsserver.sh
  local v rc=0
  for v in $(runtimes); do
    say "cluster tests on containerd $v"
    CONTAINERD=$v go_test -tests -again -count=1 -timeout 25m -parallel 8 ./test/cluster || rc=1
  done
  return $rc
}

stage_v2() {
  need_root "the stage v2"
  test/setup/deps.sh
  case " $stages " in *" v2 "* | *" setup ") test/guest/setup.sh ;; esac
  test/guest/test.sh
}

# SCENARIO, ROUNDS, PODS, IDLE, KUBELET, KEEP and RESULTS go to the program; see
# docs/performance.md.
stage_bench() {
  need_root bench
  test/setup/deps.sh
  test/setup/controlplane.sh
  go build -o bin/bench ./bench
  bin/bench ${SCENARIO:+-scenario "$SCENARIO"} ${ROUNDS:+-rounds "$ROUNDS"} ${PODS:+-pods "$PODS"} \
    ${IDLE:+-idle "$IDLE"} ${KUBELET:+-kubelet "$KUBELET"} ${KEEP:+-keep} ${RESULTS:+-out "$RESULTS"}
}

# FOCUS, SKIP, SLOW, KUBELET, RUNTIME, PROCS, KEEP and CONTAINERD say what is
# judged; see test/conformance.
stage_conformance() {
  need_root conformance
  test/setup/deps.sh
  test/setup/controlplane.sh
  test/setup/conformance.sh
  go build -o bin/conformance ./test/conformance
  bin/conformance ${FOCUS:+-focus "$FOCUS"} ${SKIP:+-skip "$SKIP"} ${SLOW:+-slow} ${KUBELET:+-kubelet "$KUBELET"} \
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

# run STAGE: run it and keep time.
SUMMARY=()
FAILED=0
run() {
  local start=$SECONDS rc=0
  printf '\n=== %s\n' "$1"
  # Not in a condition: there, bash would go on after a failed command.
  set +e
  (set -e; "stage_$1")
  rc=$?
  set -e
  local took=$((SECONDS - start))
  if [ $rc = 0 ]; then
    SUMMARY+=("$(printf 'ok    %-11s %4d s' "$1" $took)")
  else
    SUMMARY+=("$(printf 'FAIL  %-11s %4d s' "$1" $took)")
    FAILED=$((FAILED + 1))
  fi
}

case ${1:-} in
  test) stages="setup lint unit race root diff node cluster v2" ;;
  setup | lint | unit | race | root | diff | node | cluster | v2 | fuzz | bench | conformance) stages=$1 ;;
  *) die "usage: $0 test|setup|lint|unit|race|root|diff|node|cluster|v2|fuzz|bench|conformance" ;;
esac
command -v go >/dev/null || die "go is missing: install Go 1.26 or newer from https://go.dev/dl"
# Without root most would fail one by one; say so once.
[ "$stages" != "${stages#* }" ] && need_root "make test"
prepare
for s in $stages; do run "$s"; done

printf '\n'
printf '%s\n' "${SUMMARY[@]}"
if [ $FAILED != 0 ]; then
  printf 'FAILED: %d of %d stages\n' $FAILED ${#SUMMARY[@]}
  exit 1
fi
printf 'ok: %d stages in %d s\n' ${#SUMMARY[@]} $SECONDS
