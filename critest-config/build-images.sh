#!/bin/bash
# usage: build-images.sh FOLDER     makes what the images for critest are put together from (test/critest/images.ts):
#   busybox   static, upstream's default configuration, from Debian's source package. Debian's own build has no ipcs and no pgrep, and its shell runs
#             applets without looking them up in PATH, so that a masked /bin/ls would still run.
#   nginx/    Debian's nginx with the libraries that it needs, as paths of an image
#   pause, nnp
# Packages are taken only with Debian's signature, through a private apt; the host's package state is neither read nor touched.
set -euo pipefail
out=$1
here=$(dirname "$(realpath "$0")")
[ ! -x "$out/pause" ] || exit 0
KIND=critest
. "$here/../bundle/lib.sh"
. "$here/../bundle/apt.sh"
. "$here/../bundle/unpack.sh"
need_tools apt-get dpkg-deb tar bzip2 make cc
work=$out.$$.tmp
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/src" "$work/debs" "$work/out/nginx"
CACHE=$work
private_apt
echo "deb-src [signed-by=$KEYRING] $MIRROR $SUITE main" >>"$work/apt/etc/sources.list"
apt-get update -qq

say "busybox"
(cd "$work/src" && apt-get source -qq --download-only --only-source "busybox")
upstream=("$work"/src/busybox_*.orig.tar.bz2)
tar -xf "${upstream[0]}" -C "$work/src"
(
  cd "$work"/src/busybox-*/
  export KCONFIG_NOTIMESTAMP=1 SOURCE_DATE_EPOCH=1700000000 # no build time in the binary: the same everywhere
  make defconfig
  while read -r line; do
    name=$(grep -oE 'CONFIG_[A-Z0-9_]+' <<<"$line")
    sed -i -E "s/^(# )?$name[= ].*/$line/" .config
  done < <(grep -E '^(# )?CONFIG_' "$here/images/busybox.config")
  yes '' | make oldconfig || true
  nice make -j"$(nproc)"
)
install -m 0755 "$work"/src/busybox-*/busybox "$work/out/busybox"
"$work/out/busybox" --list >"$work/out/busybox.applets"
for applet in ipcs pgrep brctl netstat pidof httpd top; do
  grep -qx "$applet" "$work/out/busybox.applets" || die "the busybox that was built has no $applet"
done

say "nginx"
(cd "$work/debs" && resolve nginx | xargs apt-get download -qq)
ROOT=$work/root LISTS=$work/lists TAKEN=$work/taken
unpack "$ROOT" "$LISTS" "$work"/debs/*.deb
mkdir -p "$work/out/nginx/"{usr/sbin,lib/x86_64-linux-gnu,lib64}
take usr/sbin/nginx "$work/out/nginx/usr/sbin/nginx"
take usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$work/out/nginx/lib64/ld-linux-x86-64.so.2"
for library in $(libraries "$work/out/nginx/usr/sbin/nginx"); do
  take "${library#"$ROOT"/}" "$work/out/nginx/lib/x86_64-linux-gnu/$(basename "$library")"
done
chmod 0755 "$work/out/nginx/usr/sbin/nginx" "$work/out/nginx/lib64/ld-linux-x86-64.so.2"

cc -Os -static -s -o "$work/out/nnp" "$here/images/nnp.c"
cc -Os -static -s -o "$work/out/pause" "$here/images/pause.c"
rm -rf "$out"
mv "$work/out" "$out"
