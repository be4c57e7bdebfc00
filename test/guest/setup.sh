#!/bin/bash
# Makes a virtual machine in which cgroup v2 is mounted and systemd runs:
# Debian's kernel and a small root file system, saved with systemd up, so that
# a test begins about two seconds after it is asked for. QEMU emulates the
# processor; no hardware support is needed. Nothing is installed on the host
# but QEMU and mmdebstrap; the kernel package is only unpacked.
. "$(dirname "$0")/../setup/lib.sh"

HERE=$ROOT/test/guest
GUEST=$CACHE/guest
PACKAGES=systemd,systemd-sysv,dbus,libpam-systemd,udev,kmod,iproute2,iptables,conntrack,procps,mount,containerd,runc,containernetworking-plugins,busybox-static

[ "$(uname -m)" = x86_64 ] || die "the guest is known to work on x86_64 only, this is $(uname -m)"

host_packages() {
  local missing=()
  command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
  command -v qemu-img >/dev/null || missing+=(qemu-utils)
  command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
  command -v busybox >/dev/null || missing+=(busybox-static)
  command -v mke2fs >/dev/null || missing+=(e2fsprogs)
  [ ${#missing[@]} = 0 ] && return
  need_root "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  fetch "apt-get update" apt-get update -q
  fetch "installing ${missing[*]}" apt-get install -o DPkg::Lock::Timeout=300 -q -y --no-install-recommends "${missing[@]}"
}

# kernel: the newest cloud kernel of the distribution, under $GUEST/kernel.
kernel() {
  [ -e "$GUEST/kernel/version" ] && return
  local version
  newest() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: linux-image-//p' | head -n 1; }
  version=$(newest)
  if [ -z "$version" ]; then
    fetch "apt-get update" apt-get update -q
    version=$(newest)
  fi
  [ -n "$version" ] || die "apt knows no linux-image-cloud-amd64: is Debian's main archive among its sources?"
  rm -rf "$GUEST/kernel"
  mkdir -p "$GUEST/kernel"
  fetch_kernel() { cd "$GUEST/kernel" && apt-get download "linux-image-$version" && dpkg -x linux-image-*.deb . && rm linux-image-*.deb; }
  fetch "fetching the guest's kernel $version" fetch_kernel
  echo "$version" >"$GUEST/kernel/version"
}

# root_tree: a minimal Debian with systemd, containerd and runc.
root_tree() {
  [ -e "$GUEST/root/.packages" ] && [ "$(cat "$GUEST/root/.packages")" = "$PACKAGES" ] && return
  local sources=() f
  for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ -s "$f" ] && sources+=("$f")
  done
  make_root() {
    rm -rf "$GUEST/root"
    mmdebstrap --mode=root --variant=minbase \
      --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Check-Valid-Until "false"' \
      --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
      --include="$PACKAGES" "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$GUEST/root" "${sources[@]}"
  }
  fetch "making the guest's root file system (about a minute, once)" make_root
  echo "$PACKAGES" >"$GUEST/root/.packages"
}

# configure: what a machine needs on top of its packages.
configure() {
  local r=$GUEST/root version unit
  version=$(cat "$GUEST/kernel/version")
  mkdir -p "$r/usr/lib/modules" "$r/job"
  rm -rf "$r/usr/lib/modules/"*
  cp -a "$GUEST/kernel/lib/modules/$version" "$r/usr/lib/modules/"
  chroot "$r" depmod "$version"
  echo guest >"$r/etc/hostname"
  printf '127.0.0.1 localhost guest\n' >"$r/etc/hosts"
  : >"$r/etc/resolv.conf"
  : >"$r/etc/fstab"
  rm -f "$r"/etc/apt/sources.list "$r"/etc/apt/sources.list.d/*
  install -m 755 "$HERE/files/guest-job" "$r/usr/local/sbin/guest-job"
  install -m 644 "$HERE/files/guest-job.service" "$r/etc/systemd/system/"
  mkdir -p "$r/etc/systemd/system/multi-user.target.wants"
  ln -sf /etc/systemd/system/guest-job.service "$r/etc/systemd/system/multi-user.target.wants/"
  # Tests start containerd themselves; the rest would only cost time.
  for unit in containerd.service getty@.service serial-getty@.service apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service systemd-timesyncd.service \
    systemd-random-seed.service systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    systemd-pstore.service dev-hugepages.mount ldconfig.service; do
    ln -sf /dev/null "$r/etc/systemd/system/$unit"
  done
}

# initial_ramdisk: busybox and the drivers of the disk.
initial_ramdisk() {
  local d=$DIR/initrd.d version number=10 module
  version=$(cat "$GUEST/kernel/version")
  mkdir -p "$d"/{bin,modules,dev,proc,root}
  cp "$GUEST/root/bin/busybox" "$d/bin/"
  install -m 755 "$HERE/files/initrd-init" "$d/init"
  for module in $(for m in virtio_pci virtio_blk; do chroot "$GUEST/root" modprobe -S "$version" -D $m; done | awk '$1=="insmod" && !seen[$2]++ {print $2}'); do
    cp "$GUEST/root$module" "$d/modules/$number-${module##*/}"
    number=$((number + 1))
  done
  (cd "$d" && find . | busybox cpio -o -H newc 2>/dev/null) >"$DIR/initrd"
  rm -rf "$d"
}

disk_image() {
  configure
  mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1,root_owner=0:0 -d "$GUEST/root" "$DIR/root.img" 4G
  cp "$GUEST/kernel/boot/vmlinuz-$(cat "$GUEST/kernel/version")" "$DIR/vmlinuz"
  initial_ramdisk
}

guest() {
  local stamp
  stamp=$(cat "$HERE"/files/* "$HERE/setup.sh" "$HERE/run.sh" | sha256sum | cut -c1-16)
  DIR=$GUEST/machine
  [ "$(cat "$DIR/stamp" 2>/dev/null)" = "$stamp" ] && return
  mkdir -p "$GUEST"
  host_packages
  kernel
  root_tree
  rm -rf "$DIR"
  mkdir -p "$DIR"
  step "making the guest's disk" disk_image
  step "booting the guest once to save it (half a minute)" "$HERE/run.sh" --save
  echo "$stamp" >"$DIR/stamp"
}

with_lock guest guest
