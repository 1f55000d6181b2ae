#!/bin/bash
# usage: virtiofsd.sh FOLDER     unpacks Debian's virtiofsd with its libraries, as apt verified it, into FOLDER; nothing is installed
#
# From Debian 13 on it is the package virtiofsd (in Rust), before that a part of qemu-system-common (in C).
set -euo pipefail
out=$1
[ ! -x "$out/virtiofsd" ] || exit 0
tmp=$out.$$.tmp
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/debs" "$tmp/root" "$tmp/out"
cd "$tmp/debs"
[ -n "$(apt-cache pkgnames qemu-system-common)" ] || apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 update
if [ -n "$(apt-cache pkgnames virtiofsd | grep -x virtiofsd)" ]; then
  packages=(virtiofsd libcap-ng0 libseccomp2)
else
  packages=(qemu-system-common libcap-ng0 libseccomp2 libnuma1 libglib2.0-0 libpcre2-8-0)
fi
apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o APT::Sandbox::User=root download "${packages[@]}"
for deb in *.deb; do dpkg-deb -x "$deb" "$tmp/root"; done
find "$tmp/root" -name '*.so.*' -path '*x86_64-linux-gnu*' -exec cp -P {} "$tmp/out/" \;
cp "$(find "$tmp/root" -name virtiofsd -type f -perm -100 | head -n 1)" "$tmp/out/virtiofsd"
LD_LIBRARY_PATH=$tmp/out "$tmp/out/virtiofsd" --version
rm -rf "$out"
mv "$tmp/out" "$out"
