#!/bin/bash
# Says early, and all at once, what this machine lacks to build (argument `build`), run (`run`) or test (`test`) PodVM.
set -uo pipefail
. "$(dirname "$0")/lib.sh"
GOAL=${1:-run}
MISSING=()

# missing WHAT HOW-TO-GET-IT
missing() { MISSING+=("$1"$'\n'"      $2"); }
has() { command -v "$1" >/dev/null 2>&1; }
apt_get() { echo "apt-get install -y $*"; }

# space FOLDER MEBIBYTES WHAT-FOR; the folder itself may not exist yet
space() {
  local folder=$1 free
  while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  free=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
  [ "$free" -ge "$2" ] || missing "$2 MiB of free space for $3 in $1 (found: $free MiB)" "free some, or point ${4} elsewhere"
}

[ "$(uname -m)" = x86_64 ] || missing "an x86_64 machine (found: $(uname -m))" "other architectures are not supported yet"
if ! has apt-get || ! has dpkg-deb; then
  missing "a Debian-family system with apt-get and dpkg-deb (found: $(. /etc/os-release 2>/dev/null && echo "${PRETTY_NAME:-unknown}"))" \
    "the runtime bundle is made of Debian packages; use Debian 12 or 13, or Ubuntu 22.04 or newer"
fi
if [ "$GOAL" != build ]; then
  [ "$(id -u)" = 0 ] || missing "root (found: uid $(id -u))" "sudo make $GOAL: namespaces, cgroups and mounts need it"
  space "$ASSETS" 3000 "hypervisor, guest kernel and tools" PODVM_ASSETS
fi
space "$ROOT" 3000 "build results" "the checkout"

if ! has node; then
  missing "Node.js 20.18 or newer (found: none)" "Debian 13: $(apt_get nodejs npm); older: https://deb.nodesource.com/setup_22.x"
else
  node_version=$(node -p process.versions.node 2>/dev/null || echo 0)
  version_at_least "$node_version" 20.18.0 ||
    missing "Node.js 20.18 or newer (found: $node_version)" "Debian 13: $(apt_get nodejs npm); older: https://deb.nodesource.com/setup_22.x"
fi
has npm || missing "npm" "$(apt_get npm), or Node.js from https://deb.nodesource.com, which holds it"
rustup_hint="curl --proto '=https' -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c clippy -c rustfmt"
if ! has cargo; then
  missing "Rust 1.85 or newer with cargo (found: none)" "$rustup_hint"
else
  rust_version=$(rustc --version 2>/dev/null | cut -d ' ' -f 2)
  version_at_least "${rust_version:-0}" 1.85.0 || missing "Rust 1.85 or newer (found: ${rust_version:-none})" "rustup update stable"
  if ! [ -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$RUST_TARGET" ] && ! has rustup; then
    missing "the Rust target $RUST_TARGET" "install Rust by rustup: $rustup_hint"
  fi
fi
has cc || missing "a C compiler to link with (cc)" "$(apt_get gcc libc6-dev)"
for pair in flock:util-linux xz:xz-utils; do
  has "${pair%%:*}" || missing "${pair%%:*}" "$(apt_get "${pair#*:}")"
done
if [ "$GOAL" = test ]; then
  if ! has go; then
    missing "Go 1.24 or newer, to build crictl, for the tests only (found: none)" "Debian 13: $(apt_get golang-go); else https://go.dev/dl"
  fi
  has openssl || missing "openssl, for the certificates of make cluster" "$(apt_get openssl)"
  has bzip2 || missing "bzip2, to unpack the source of busybox, for the tests only" "$(apt_get bzip2)"
  space "$CACHE" 1000 "test tools" PODVM_CACHE
fi

if [ ${#MISSING[@]} -gt 0 ]; then
  echo "podvm: make $GOAL needs what this machine lacks:" >&2
  printf '  - %s\n' "${MISSING[@]}" >&2
  echo "Install these, then run the same command again." >&2
  exit 1
fi
