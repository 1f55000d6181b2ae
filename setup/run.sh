#!/bin/bash
# `make run`: sets up what is missing, writes the default configuration where there is none, and becomes the server.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
CONFIG=${PODVM_CONFIG:-/etc/podvm/config.toml}
setup/setup.sh
[ -e "$CONFIG" ] || bin/podvm config init --config "$CONFIG"
echo "  ready after ${SECONDS}s; starting: podvm serve --config $CONFIG"
exec bin/podvm serve --config "$CONFIG"
