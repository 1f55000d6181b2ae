#!/bin/bash
# By rename: a launcher that is running keeps its file.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
mkdir -p "$ASSETS/bin"
install -m 0755 "$ROOT/target/$RUST_TARGET/release/podvm-launch" "$ASSETS/bin/.podvm-launch.$$"
mv "$ASSETS/bin/.podvm-launch.$$" "$ASSETS/bin/podvm-launch"
