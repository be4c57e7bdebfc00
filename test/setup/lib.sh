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

# step TEXT CMD...: run a command that may take minutes. Its output goes to a
# log; a line shows every ten seconds that it is alive, and on failure the end
# of the log.
step() {
  local text=$1 log start=$SECONDS pid rc=0
  shift
  log=$(mktemp "$CACHE/step.XXXXXX.log")
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
    die "$text (exit code $rc after $((SECONDS - start)) s; log: $log)"
  fi
  rm -f "$log"
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
