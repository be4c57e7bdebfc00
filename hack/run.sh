#!/bin/bash
# make run: everything from nothing to a few running pods on this machine.
# Installs containerd, runc and the network plugins if they are missing,
# builds the kubelet, makes an image from local parts, and runs the manifests
# of examples/ in a table until Ctrl-C, which cleans everything up.
#   RUN_DIR    where the node lives (default /var/lib/kubelet-standalone)
. "$(dirname "$0")/../test/setup/lib.sh"

need_root "make run"
DIR=${RUN_DIR:-/var/lib/kubelet-standalone}
"$ROOT/test/setup/deps.sh" packages
"$ROOT/test/setup/deps.sh" images
step "building the kubelet (the first time takes a minute or two)" make -C "$ROOT" --no-print-directory build

# The samples may be edited while they run, so the node has its own copy.
mkdir -p "$DIR/manifests"
for f in "$ROOT"/examples/*.yaml; do
  [ -e "$DIR/manifests/$(basename "$f")" ] || cp "$f" "$DIR/manifests/"
done

cat <<TEXT

The pods of $DIR/manifests start below. In another terminal, try:

  $ROOT/bin/kubelet explain --root-dir $DIR/kubelet             why each pod is where it is
  curl http://POD-IP:8080/                         the web server (IP in the table)
  tail -f $DIR/logs/*/*/*.log                      what the containers print
  rm $DIR/manifests/crashing.yaml                  the pod ends
  edit $DIR/manifests/web.yaml                     the pod is replaced by the new version
  kill -9 \$(pgrep -f 'kubelet standalone')         the pods go on; make run again adopts them

Ctrl-C ends the pods and the runtime. The kubelet's log is $DIR/kubelet.log.

TEXT
exec "$ROOT/bin/kubelet" standalone --dir "$DIR" --images "$CACHE/images" --table
