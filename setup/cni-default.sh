#!/bin/bash
# A bridge network for a node that has no CNI configuration at all; what is there is never touched.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
FOLDER=${PODVM_CNI_CONF:-/etc/cni/net.d}
mkdir -p "$FOLDER"
if ! find "$FOLDER" -maxdepth 1 \( -name '*.conf' -o -name '*.conflist' -o -name '*.json' \) | grep -q .; then
  cat >"$FOLDER/.10-podvm.$$" <<'CNI'
{
  "cniVersion": "1.0.0",
  "name": "podvm",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "podvm0",
      "isGateway": true,
      "ipMasq": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{ "subnet": "10.88.0.0/16" }], [{ "subnet": "fd00:88::/64" }]],
        "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } },
    { "type": "firewall" }
  ]
}
CNI
  mv "$FOLDER/.10-podvm.$$" "$FOLDER/10-podvm.conflist"
  echo "  wrote $FOLDER/10-podvm.conflist (bridge podvm0, 10.88.0.0/16)"
fi
