#!/bin/bash
# Builds what the upstream end-to-end suite takes: the suite itself and its
# runner ginkgo, CoreDNS, and the images of the tests under their upstream names.
# Takes about ten minutes on two cores, once. The control plane should come
# first: most of the suite is compiled of the same packages.
. "$(dirname "$0")/lib.sh"

DIR=$CACHE/conformance-$KUBERNETES_VERSION
VERSION_PKG=k8s.io/component-base/version
LDFLAGS="-s -w -X $VERSION_PKG.gitVersion=$KUBERNETES_VERSION -X $VERSION_PKG.gitMajor=1 -X $VERSION_PKG.gitMinor=37"
# What the root of the images holds besides Debian's minimum.
ROOT_PACKAGES=busybox-static,bash-static,curl,bind9-dnsutils,iproute2,netcat-openbsd,socat,nginx
# Later than the machine's: tests depend on what busybox 1.37 does.
ROOT_SUITE=trixie

# built NAME: whether the part was made of what comes on standard input;
# done_with NAME says so afterwards.
built() {
  STAMP=$DIR/$1.$(sha256sum | cut -c1-16).done
  [ -f "$STAMP" ]
}
done_with() {
  rm -f "$DIR/$1".*.done
  touch "$STAMP"
}

packages() {
  command -v debootstrap >/dev/null && return
  need_root "installing debootstrap"
  step "installing debootstrap" env DEBIAN_FRONTEND=noninteractive sh -c \
    "apt-get update -q && apt-get install -q -y --no-install-recommends debootstrap"
}

suite() {
  local src=$ROOT/test/tooling
  built suite <"$src/go.sum" && return
  build_suite() {
    cd "$src"
    export CGO_ENABLED=0
    go test -c -ldflags "$LDFLAGS" -o "$DIR/e2e.test.new" k8s.io/kubernetes/test/e2e
    go build -ldflags "-s -w" -o "$DIR/" github.com/onsi/ginkgo/v2/ginkgo
    go build -ldflags "$LDFLAGS" -o "$DIR/" k8s.io/kubernetes/test/images/{agnhost,nonewprivs}
  }
  step "building the end-to-end suite $KUBERNETES_VERSION (3 to 6 minutes on two cores, once)" build_suite
  mv "$DIR/e2e.test.new" "$DIR/e2e.test"
  done_with suite
}

dns() {
  local src=$ROOT/test/tooling/coredns
  built dns < <(cat "$src/main.go" "$src/go.sum") && return
  build_dns() { cd "$src" && CGO_ENABLED=0 go build -ldflags "-s -w" -o "$DIR/coredns" .; }
  step "building CoreDNS" build_dns
  done_with dns
}

# root: a small Debian, in which the programs of the images find the tools that
# tests run beside them.
root() {
  built root <<<"$ROOT_SUITE $ROOT_PACKAGES" && return
  need_root "making the root of the images"
  rm -rf "$DIR/root" "$DIR/root.new"
  build_root() {
    debootstrap --variant=minbase --include="$ROOT_PACKAGES" "$ROOT_SUITE" "$DIR/root.new" http://deb.debian.org/debian
    rm -rf "$DIR"/root.new/{var/cache/apt,var/lib/apt/lists,usr/share/doc,usr/share/locale,usr/share/man,dev/*}
  }
  step "making the root of the images (debootstrap, two minutes, once)" build_root
  mv "$DIR/root.new" "$DIR/root"
  done_with root
}

images() {
  local src=$ROOT/test/conformance/images/main.go source
  built images < <(cat "$src" "$ROOT/test/conformance/images/sh/main.go" "$ROOT"/test/images/oci/*.go && cd "$DIR" && ls root.*.done suite.*.done && cd "$CACHE/images" && ls ./*.done) && return
  source=$(cd "$ROOT/test/tooling" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)
  build_images() {
    cd "$ROOT" && CGO_ENABLED=0 go build -ldflags "-s -w" -o "$DIR/sh" ./test/conformance/images/sh &&
      go run ./test/conformance/images -o "$DIR/images.tar" -parts "$DIR" -pause "$CACHE/images/pause.tar" -kubernetes "$source"
  }
  step "making the images of the suite" build_images
  done_with images
}

mkdir -p "$DIR"
with_lock packages packages
# The root is downloaded while the processors build the rest.
with_lock conformance-root root &
with_lock conformance-suite suite
with_lock conformance-dns dns
wait $!
with_lock conformance-images images
