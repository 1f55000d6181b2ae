#!/bin/bash
# By rename: what is running keeps its file.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
mkdir -p "$ASSETS/bin"
for program in podvm-agent podvm-share podvm-launch; do
  install -m 0755 "$ROOT/target/$RUST_TARGET/release/$program" "$ASSETS/bin/.$program.$$"
  mv "$ASSETS/bin/.$program.$$" "$ASSETS/bin/$program"
done
