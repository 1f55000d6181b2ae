#!/bin/bash
# usage: posix-checks.sh FOLDER     builds the static program that tries a file system from inside a container (test/posix) into FOLDER
set -euo pipefail
. "$(dirname "$0")/../../setup/lib.sh"
cd "$ROOT"
unset CARGO_TARGET_DIR
nice cargo build --locked --release --target "$RUST_TARGET" -p podvm-posix-checks
mkdir -p "$1"
install -m 0755 "target/$RUST_TARGET/release/posix-checks" "$1/posix-checks.$$"
mv "$1/posix-checks.$$" "$1/posix-checks"
