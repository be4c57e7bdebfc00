#!/bin/bash
# run.sh [-t SECONDS] [-a "KERNEL ARGUMENTS"] FOLDER COMMAND
#   Runs a shell command as root in the guest of setup.sh. The folder's content
#   is in /job/files there, the working directory is /job. Output is streamed;
#   the exit code is the command's, 124 if time ran out, 125 if the guest ended
#   without one. With -a the guest boots with those kernel arguments (about ten
#   seconds); without, the saved machine runs on (about two).
# run.sh --save
#   Boots the guest and saves it.
. "$(dirname "$0")/../setup/lib.sh"

DIR=$CACHE/guest/machine
TIMEOUT=900
ARGUMENTS=
MODE=resume
# The saved machine is the same only with the same hardware.
MEMORY=3072
DISK=768M

if [ "${1:-}" = --save ]; then
  MODE=save
else
  while getopts t:a: option; do
    case $option in
      t) TIMEOUT=$OPTARG ;;
      a) ARGUMENTS=$OPTARG MODE=boot ;;
      *) exit 2 ;;
    esac
  done
  shift $((OPTIND - 1))
  [ $# = 2 ] || die "usage: $0 [-t SECONDS] [-a ARGUMENTS] FOLDER COMMAND"
fi

JOB=$(mktemp -d "$CACHE/guest/job.XXXXXX")
TAIL=
cleanup() {
  [ -n "$TAIL" ] && kill "$TAIL" 2>/dev/null || true
  [ -n "${KEEP:-}" ] || rm -rf "$JOB"
}
trap cleanup EXIT
: >"$JOB/output"
: >"$JOB/code"

# machine DISK FORMAT SNAPSHOT MORE...: QEMU in the foreground.
machine() {
  local disk=$1 format=$2 snapshot=$3
  shift 3
  timeout -k 5 "$TIMEOUT" qemu-system-x86_64 \
    -M q35 -accel tcg,thread=multi,tb-size=512 -cpu max -smp 2 -m $MEMORY \
    -nodefaults -display none -no-reboot -serial "file:$JOB/console" \
    -kernel "$DIR/vmlinuz" -initrd "$DIR/initrd" \
    -append "console=ttyS0 quiet mitigations=off panic=-1 systemd.show_status=0 systemd.unit=multi-user.target $ARGUMENTS" \
    -drive "if=none,id=root,file=$disk,format=$format,snapshot=$snapshot,cache=unsafe" -device virtio-blk-pci,drive=root \
    -drive "if=none,id=job,file=$JOB/job.tar,format=raw,readonly=on" -device virtio-blk-pci,drive=job \
    -device virtio-rng-pci -device virtio-serial-pci \
    -chardev "file,id=output,path=$JOB/output,append=on" -device virtserialport,chardev=output,name=output \
    -chardev "file,id=code,path=$JOB/code,append=on" -device virtserialport,chardev=code,name=code \
    "$@" 2>>"$JOB/qemu"
}

if [ $MODE = save ]; then
  ARGUMENTS="guest.save"
  truncate -s $DISK "$JOB/job.tar"
  rm -f "$DIR/saved.qcow2" "$DIR/saved.state"
  qemu-img create -q -f qcow2 -b "$DIR/root.img" -F raw "$DIR/saved.qcow2"
  mkfifo "$JOB/monitor"
  exec 8<>"$JOB/monitor"
  machine "$DIR/saved.qcow2" qcow2 off -monitor stdio <&8 >"$JOB/monitor.log" &
  qemu=$!
  until grep -q saved "$JOB/code"; do
    kill -0 $qemu 2>/dev/null || { cat "$JOB/console" "$JOB/qemu" >&2; die "the guest did not come up"; }
    sleep 0.2
  done
  sleep 1 # let it come to rest
  {
    echo "migrate_set_parameter max-bandwidth 4G"
    echo "migrate \"exec:cat > $DIR/saved.state\""
    echo quit
  } >&8
  wait $qemu || die "the guest could not be saved: $(cat "$JOB/monitor.log" "$JOB/qemu")"
  exit 0
fi

mkdir "$JOB/content"
ln -s "$(cd "$1" && pwd)" "$JOB/content/files"
printf '%s\n' "$2" >"$JOB/content/command"
date +%s >"$JOB/content/time"
# The command first: the saved guest waits for its name in the first block.
tar -chf "$JOB/job.tar" -C "$JOB/content" command time files
[ "$(stat -c %s "$JOB/job.tar")" -le $((${DISK%M} << 20)) ] || die "the job is larger than $DISK"
truncate -s $DISK "$JOB/job.tar"

tail -qf "$JOB/output" &
TAIL=$!
rc=0
if [ $MODE = boot ]; then
  machine "$DIR/root.img" raw on </dev/null || rc=$?
else
  machine "$DIR/saved.qcow2" qcow2 on -incoming "exec:cat $DIR/saved.state" </dev/null || rc=$?
fi
sleep 0.3 # for the last of the output
code=$(grep -m1 -E '^[0-9]+$' "$JOB/code" || true)
[ -n "$code" ] && exit "$code"
KEEP=1
echo "the guest ended without an exit code (QEMU: $rc); console and logs are in $JOB" >&2
[ $rc = 124 ] && exit 124
exit 125
