#!/bin/bash
# usage: debs.sh FOLDER     unpacks docker-registry and busybox-static, as apt verified them, into FOLDER
set -euo pipefail
out=$1
packages=(docker-registry busybox-static)
[ ! -x "$out/usr/bin/docker-registry" ] || exit 0
tmp=$out.$$.tmp
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/debs" "$tmp/root"
cd "$tmp/debs"
fetch() { apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o APT::Sandbox::User=root download "${packages[@]}"; }
if ! apt-cache show "${packages[@]}" >/dev/null 2>&1 || ! fetch; then
  # no package lists, or older than the archive
  apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update
  fetch
fi
for deb in *.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
"$tmp/root/bin/busybox" true
rm -rf "$out"
mv "$tmp/root" "$out"
