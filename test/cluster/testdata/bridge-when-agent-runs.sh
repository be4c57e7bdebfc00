#!/bin/sh
# A network plugin that works only once its agent, a pod on the host's network,
# runs on the node: the shape of many real ones. Until then an ADD hangs.
if [ "$CNI_COMMAND" = ADD ]; then
  mkdir -p /run/cni-test/waiting
  : >"/run/cni-test/waiting/$CNI_CONTAINERID"
  until [ -e /run/cni-test/agent ]; do sleep 0.1; done
fi
exec /usr/lib/cni/bridge
