#!/bin/bash
# usage: debs.sh FOLDER     unpacks, as apt verified them, docker-registry, busybox with its libraries, and apparmor_parser with the features of a kernel
#                           that it can compile for, into FOLDER
#
# Not busybox-static: linked statically against glibc, it cannot look up names without glibc's shared libraries.
set -euo pipefail
out=$1
packages=(docker-registry busybox libc6 apparmor)
[ ! -x "$out/docker-registry" ] || exit 0
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

# busybox/: the part of an image that busybox needs to run
mkdir -p "$tmp/out/busybox/"{bin,lib64,lib/x86_64-linux-gnu}
find_one() { find "$tmp/root" -path "*/$1" \( -type f -o -type l \) | head -n 1 | xargs -r realpath; }
install -m 0755 "$(find_one bin/docker-registry)" "$tmp/out/docker-registry"
install -m 0755 "$(find_one bin/busybox)" "$tmp/out/busybox/bin/busybox"
install -m 0755 "$(find_one x86_64-linux-gnu/ld-linux-x86-64.so.2)" "$tmp/out/busybox/lib64/ld-linux-x86-64.so.2"
for name in libc.so.6 libresolv.so.2; do
  install -m 0644 "$(find_one "x86_64-linux-gnu/$name")" "$tmp/out/busybox/lib/x86_64-linux-gnu/$name"
done
# apparmor/: a compiler of policies, which needs no AppArmor on this machine
mkdir -p "$tmp/out/apparmor"
install -m 0755 "$(find_one sbin/apparmor_parser)" "$tmp/out/apparmor/apparmor_parser"
install -m 0644 "$(find_one apparmor.d/abi/3.0)" "$tmp/out/apparmor/features"
"$tmp/out/docker-registry" --version
"$tmp/out/apparmor/apparmor_parser" --version
rm -rf "$out"
mv "$tmp/out" "$out"
