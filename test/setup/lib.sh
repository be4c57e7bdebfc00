# Shared by the setup scripts: where things are kept, and how progress shows.
# Source it; it runs nothing.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Everything that is built or downloaded for tests, keyed by version, outside
# of the work tree. Removing the folder is safe; it is filled again.
CACHE=${KUBELET_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/kubelet-dev}
CONTAINERD_VERSION=2.4.2
RUNC_VERSION=1.4.3
KUBERNETES_VERSION=v1.37.2
METRICS_SERVER_VERSION=v0.9.0
mkdir -p "$CACHE"

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

need_root() {
  [ "$(id -u)" = 0 ] || die "$1 needs root: it makes namespaces, mounts and cgroups, and installs packages"
}

# flaky PACKAGE PATTERN: name tests that failed first and then passed. FLAKY, if
# set, is the file from which they come into the summary.
flaky() {
  local name="${1#kubelet/} ${2//[\^()\$]/}"
  [ "$2" != . ] || name="${1#kubelet/} (as a whole)"
  say "FLAKY (failed first, then passed): $name"
  [ -z "${FLAKY:-}" ] || printf '%s\n' "$name" >>"$FLAKY"
}

# step TEXT CMD...: run a command that may take minutes. Its output goes to a
# log; a line shows every ten seconds that it is alive, and on failure the end
# of the log.
step() {
  local text=$1 log rc=0
  shift
  log=$(mktemp "$CACHE/step.XXXXXX.log")
  try "$text" "$log" "$@" || rc=$?
  [ $rc = 0 ] || die "$text (exit code $rc; log: $log)"
  rm -f "$log"
}

# fetch TEXT CMD...: a step that goes over the network, which may fail for a
# moment: three tries.
fetch() {
  local text=$1 log rc=0 i
  shift
  log=$(mktemp "$CACHE/step.XXXXXX.log")
  for i in 1 2 3; do
    [ $i = 1 ] || { say "trying again in 10 s"; sleep 10; }
    rc=0
    try "$text" "$log" "$@" || rc=$?
    [ $rc != 0 ] || break
  done
  [ $rc = 0 ] || die "$text (exit code $rc, three times; log: $log). It needs Debian's mirror (/etc/apt) or the Go module proxy ($(go env GOPROXY 2>/dev/null)): can they be reached from here? Nothing is half made: run it again."
  rm -f "$log"
}

# try TEXT LOG CMD...: one try of a step.
try() {
  local text=$1 log=$2 start=$SECONDS pid rc=0
  shift 2
  say "$text"
  "$@" >"$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    for _ in 1 2 3 4 5 6 7 8 9 10; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 1
    done
    if kill -0 "$pid" 2>/dev/null; then
      printf '    … %ds  %s\n' $((SECONDS - start)) "$(tail -n 1 "$log" | tr -d '\r' | cut -c1-90)" >&2
    fi
  done
  wait "$pid" || rc=$?
  if [ $rc != 0 ]; then
    tail -n 40 "$log" >&2
    say "$text: failed after $((SECONDS - start)) s"
    return $rc
  fi
  say "$text: done in $((SECONDS - start)) s"
}

# with_lock NAME CMD...: two runs at once must not build the same thing.
with_lock() {
  local name=$1
  shift
  (
    flock 9
    "$@"
  ) 9>"$CACHE/$name.lock"
}
