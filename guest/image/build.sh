#!/bin/bash
# Makes the guest image: the kernel that every pod's VM boots, uncompressed, and its initial root with the agent as first process.
#   guest/image/build.sh [AGENT]     AGENT: the static agent program, default target/x86_64-unknown-linux-musl/release/podvm-agent
# Equal inputs give an equal digest and equal bytes. A second run finds it finished and is done. Described in docs/guest-image.md.
set -euo pipefail
KIND=guest
here=$(dirname "$(realpath "$0")")
. "$here/../../bundle/lib.sh"

agent=${1:-$here/../../target/x86_64-unknown-linux-musl/release/podvm-agent}
need_root_debian
need_tools node
[ -f "$agent" ] || die "no agent at $(realpath -ms "$agent"). Build it (make agent), or name one: guest/image/build.sh AGENT"
bundle=$(realpath -e "$ASSETS/bundle/current" 2>/dev/null) || die "no runtime bundle at $ASSETS/bundle/current (kernel and crun are taken from it). Run first: bundle/build.sh"
inputs=$(sed -n 's/^  "inputs": "\([0-9a-f]*\)",$/\1/p' "$bundle/manifest.json")
[ -n "$inputs" ] || die "$bundle/manifest.json names no inputs; the bundle is of another version. Run: bundle/build.sh"
digest=$(digest_of "podvm-guest-1 $inputs" "$agent" "$here"/{modules,cmdline}.txt "$here"/{cpio,modules,vmlinux,mkimage}.mjs "$here/build.sh" | cut -c1-16)
if is_current "$digest"; then
  say "$ASSETS/$KIND/$digest is there"
  exit 0
fi

lock
final=$ASSETS/$KIND/$digest
if [ ! -f "$final/manifest.json" ]; then
  need_space 300
  begun=$(date +%s)
  build=$(mktemp -d "$ASSETS/$KIND/.build-XXXXXX")
  trap 'rm -rf "$build"' EXIT
  say "unpacking the kernel, writing the initial root"
  node "$here/mkimage.mjs" "$bundle" "$(realpath "$agent")" "$build" "$digest" || die "the guest image could not be made (see above)"
  seal "$build"
  publish "$build" "$digest"
  say "done: $final, vmlinux $(stat -c %s "$final/vmlinux") bytes, initrd $(stat -c %s "$final/initrd") bytes, $(($(date +%s) - begun)) s"
fi
make_current "$digest"
