#!/bin/bash
# The static programs: the agent (goes into the guest image) and launcher and share (run on the host).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$ROOT"
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$RUST_TARGET" ]; then
  rustup target add "$RUST_TARGET"
fi
unset CARGO_TARGET_DIR
exec cargo build --locked --release --target "$RUST_TARGET" -p podvm-agent -p podvm-launch -p podvm-share
