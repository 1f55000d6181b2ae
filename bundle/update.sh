#!/bin/bash
# Moves the pins: resolves packages.txt to what Debian offers today and writes pins.txt. Builds nothing; `make setup` does.
set -euo pipefail
KIND=bundle
here=$(dirname "$(realpath "$0")")
. "$here/lib.sh"
. "$here/apt.sh"

need_root_debian
lock
private_apt
mapfile -t roots < <(grep -v '^#' "$here/packages.txt")
resolved=$(resolve "${roots[@]}") || die "the packages of packages.txt cannot be installed together from Debian $SUITE"
[ -n "$resolved" ] || die "nothing resolved from packages.txt"
old=$(grep -v '^#' "$here/pins.txt" 2>/dev/null || true)
{
  cat <<HEAD
# Every package of the runtime bundle, with its exact version: the complete closure of packages.txt.
# From $SUITE, $SUITE-updates and $SUITE-security. Written by \`make bundle-update\`; not edited by hand.
HEAD
  printf '%s\n' "$resolved"
} >"$here/pins.txt.new"
mv "$here/pins.txt.new" "$here/pins.txt"
if [ "$old" = "$resolved" ]; then
  say "pins.txt is up to date: $(wc -l <<<"$resolved") packages"
elif [ -z "$old" ]; then
  say "pins.txt written: $(wc -l <<<"$resolved") packages"
else
  say "pins.txt changed (- old, + new):"
  diff <(printf '%s\n' "$old") <(printf '%s\n' "$resolved") | sed -n 's/^</-/p; s/^>/+/p' || true
fi
