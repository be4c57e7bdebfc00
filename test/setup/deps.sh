#!/bin/bash
# Installs what node and cluster tests need and this machine lacks: Debian
# packages, containerd 2.4.2 and runc 1.4.3 (built from their Go modules), the
# test images.
#   deps.sh  all of that
#   deps.sh [packages] [containerd] [runc] [images] [compiler] [crun]  some of it
. "$(dirname "$0")/lib.sh"

# program:package, so that only what is missing is asked for.
NEEDED="
containerd:containerd runc:runc busybox:busybox-static etcd:etcd-server
iptables:iptables conntrack:conntrack ip:iproute2 mount:mount
socat:socat
"

packages() {
  local missing=() pair
  for pair in $NEEDED; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
  install "${missing[@]}"
}

# compiler: the race detector needs a C compiler.
compiler() { command -v gcc >/dev/null || install gcc libc6-dev; }

# crun: the runtime that RUNTIME=crun runs the tests with.
crun() { [ -x /usr/bin/crun ] || install crun; }

install() {
  local missing=("$@")
  [ ${#missing[@]} = 0 ] && return
  need_root "installing ${missing[*]}"
  command -v apt-get >/dev/null || die "missing: ${missing[*]}; only Debian's apt-get is known here, install them yourself"
  export DEBIAN_FRONTEND=noninteractive
  fetch "apt-get update" apt-get update -q
  # A package's own service must not start: tests run containerd and etcd in
  # namespaces of their own.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    made=1
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  fetch "installing ${missing[*]}" apt-get install -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends "${missing[@]}"
  if [ -n "$made" ]; then rm -f $policy; trap - EXIT; fi
}

containerd2() {
  local dir=$CACHE/containerd-$CONTAINERD_VERSION
  [ -x "$dir/bin/ctr" ] && return
  rm -rf "$dir.tmp"
  mkdir -p "$dir.tmp/bin"
  # From an empty folder, so that the project's go.mod has no say.
  build_containerd() {
    cd "$dir.tmp" && GOBIN=$dir.tmp/bin GOFLAGS= CGO_ENABLED=0 go install \
      github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}@v$CONTAINERD_VERSION
  }
  fetch "building containerd $CONTAINERD_VERSION (about two minutes, once)" build_containerd
  rm -rf "$dir"
  mv "$dir.tmp" "$dir"
}

# runc: Debian's is too old to map the owners of mounts, which user namespaces
# take. It needs a C compiler and libseccomp.
runc() {
  local dir=$CACHE/runc-$RUNC_VERSION missing=()
  [ -x "$dir/bin/runc" ] && return
  command -v gcc >/dev/null || missing+=(gcc libc6-dev)
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  [ -e /usr/include/seccomp.h ] || missing+=(libseccomp-dev)
  install "${missing[@]}"
  rm -rf "$dir.tmp"
  mkdir -p "$dir.tmp/bin"
  build_runc() {
    cd "$dir.tmp" && GOBIN=$dir.tmp/bin GOFLAGS= CGO_ENABLED=1 go install -tags seccomp github.com/opencontainers/runc@v$RUNC_VERSION
  }
  fetch "building runc $RUNC_VERSION" build_runc
  rm -rf "$dir"
  mv "$dir.tmp" "$dir"
}

images() {
  local dir=$CACHE/images stamp
  stamp=$(cat "$ROOT"/test/images/main.go "$ROOT"/test/images/*/*.go | sha256sum | cut -c1-16)
  [ -f "$dir/$stamp.done" ] && return
  mkdir -p "$dir"
  build_images() { cd "$ROOT" && go run ./test/images -o "$dir" -busybox "$(command -v busybox)"; }
  step "making the test images" build_images
  rm -f "$dir"/*.done
  touch "$dir/$stamp.done"
}

command -v go >/dev/null || die "go is missing: install Go 1.26 or newer from https://go.dev/dl"
for part in ${*:-packages containerd runc images}; do
  case $part in
    packages) with_lock packages packages ;;
    containerd) with_lock containerd containerd2 ;;
    runc) with_lock packages runc ;;
    images) with_lock images images ;;
    crun) with_lock packages crun ;;
    compiler) with_lock packages compiler ;;
    *) die "unknown part: $part" ;;
  esac
done
