#!/bin/bash
# Makes the runtime bundle: QEMU, mkfs.erofs, e2fsprogs, crun, CNI plugins, network tools and the guest's kernel, out of the Debian
# packages that pins.txt names, as one relocatable, read-only folder. What it holds and why: docs/bundle.md.
# Nothing is installed on the host. A second run finds it finished and is done.
set -euo pipefail
KIND=bundle
here=$(dirname "$(realpath "$0")")
. "$here/lib.sh"
. "$here/apt.sh"
. "$here/fetch.sh"
. "$here/unpack.sh"

programs=(
  usr/bin/qemu-system-x86_64 usr/bin/qemu-img
  usr/bin/mkfs.erofs usr/bin/dump.erofs usr/bin/fsck.erofs
  usr/sbin/mke2fs usr/sbin/e2fsck usr/sbin/debugfs usr/sbin/resize2fs
  usr/bin/zstd usr/bin/xz usr/bin/crun
  usr/bin/ip usr/sbin/tc usr/sbin/nft usr/sbin/xtables-nft-multi
)
firmware=(
  usr/share/seabios/bios-256k.bin usr/share/seabios/bios-microvm.bin
  usr/share/qemu/qboot.rom usr/share/qemu/pvh.bin usr/share/qemu/linuxboot_dma.bin usr/share/qemu/kvmvapic.bin
  usr/share/qemu/efi-virtio.rom
)
plugins=(bandwidth bridge firewall host-local loopback portmap ptp static tuning)
# Folders of kernel modules that no guest needs.
no_modules=(drivers/gpu drivers/infiniband drivers/hid drivers/input drivers/usb drivers/edac drivers/media drivers/iio drivers/net/ethernet drivers/accel sound)

need_root_debian
pins=$here/pins.txt
[ -f "$pins" ] || die "no $pins; run: make bundle-update"
# digest_of_pins: sets `inputs` and `digest`. The place is in the digest: programs name their loader by absolute path.
digest_of_pins() {
  inputs=$(digest_of podvm-bundle-1 "$pins" "$here"/{lib,apt,fetch,unpack,build}.sh)
  digest=$(printf '%s\n%s\n' "$inputs" "$ASSETS" | sha256sum | cut -c1-16)
}
digest_of_pins
asked=$digest
# Made of newer packages than the pins, when Debian no longer had those (fetch.sh): this file says which bundle that is.
moved=$ASSETS/$KIND/.moved-$asked
[ ! -f "$moved" ] || [ "${PODVM_PINS:-}" = strict ] || digest=$(<"$moved")
if is_current "$digest"; then
  say "$ASSETS/$KIND/$digest is there"
  exit 0
fi

lock
final=$ASSETS/$KIND/$digest
if [ -f "$final/manifest.json" ]; then # another build has just made it, or an older one is wanted again
  make_current "$digest"
  say "$final is there"
  exit 0
fi
need_space 1200
begun=$(date +%s)
build=$(realpath "$(mktemp -d "$ASSETS/$KIND/.build-XXXXXX")") # links resolved: `take` compares paths
trap 'rm -rf "$build"' EXIT
ROOT=$build/root LISTS=$build/lists TAKEN=$build/taken OUT=$build/out
mkdir -p "$OUT"/{bin,lib/xtables,share/qemu,cni,kernel/modules,licenses}

digest=$asked
fetch
digest_of_pins
final=$ASSETS/$KIND/$digest
if [ -f "$final/manifest.json" ]; then # the newer packages are those of a bundle that is here, and perhaps in use
  printf '%s' "$digest" >"$moved"
  make_current "$digest"
  say "$final is there"
  exit 0
fi
say "unpacking ${#DEBS[@]} packages"
unpack "$ROOT" "$LISTS" "${DEBS[@]}"

say "collecting programs, libraries, firmware"
for p in "${programs[@]}"; do take "$p" "$OUT/bin/$(basename "$p")"; done
for f in "${firmware[@]}"; do take "$f" "$OUT/share/qemu/"; done
for p in "${plugins[@]}"; do take "usr/lib/cni/$p" "$OUT/cni/$p"; done
for x in "$ROOT"/usr/lib/x86_64-linux-gnu/xtables/lib{xt,ipt,ip6t}_*.so; do
  [ -L "$x" ] && cp -P "$x" "$OUT/lib/xtables/" || take "${x#"$ROOT"/}" "$OUT/lib/xtables/"
done
take etc/mke2fs.conf "$OUT/share/mke2fs.conf"
take usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 "$OUT/lib/ld-linux-x86-64.so.2"
needed=$(libraries "$OUT"/bin/* "$OUT"/cni/* "$OUT"/lib/xtables/*.so)
for l in $needed; do take "${l#"$ROOT"/}" "$OUT/lib/$(basename "$l")"; done
ln -s mke2fs "$OUT/bin/mkfs.ext4"
chmod 0755 "$OUT"/bin/* "$OUT"/cni/* "$OUT/lib/ld-linux-x86-64.so.2"

say "collecting the kernel"
release=$(basename "$ROOT"/usr/lib/modules/*)
take "boot/vmlinuz-$release" "$OUT/kernel/vmlinuz"
take "boot/config-$release" "$OUT/kernel/config"
cp -r --no-preserve=mode,timestamps "$ROOT/usr/lib/modules/$release"/{kernel,modules.builtin,modules.order} "$OUT/kernel/modules/"
for d in "${no_modules[@]}"; do rm -rf "$OUT/kernel/modules/kernel/$d"; done
printf '%s\n' "$release" >"$OUT/kernel/release"

say "making it relocatable"
patchelf=("$ROOT/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$ROOT/usr/lib/x86_64-linux-gnu" "$ROOT/usr/bin/patchelf")
# crun as Debian built it, for the guest, which has a loader at the usual place. The bundle's own copy runs on the host.
cp "$OUT/bin/crun" "$OUT/kernel/crun"
for b in "$OUT"/bin/* "$OUT"/cni/*; do
  [ -L "$b" ] || "${patchelf[@]}" --set-interpreter "$final/lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "\$ORIGIN/../lib" "$b"
done
# crun runs itself again from a memory file, where $ORIGIN leads nowhere.
"${patchelf[@]}" --force-rpath --set-rpath "$final/lib" "$OUT/bin/crun"
# iptables finds its extensions by environment only, and CNI plugins start it by name.
for n in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
  printf '#!/bin/sh\nXTABLES_LIBDIR=%s exec %s %s "$@"\n' "$final/lib/xtables" "$final/bin/xtables-nft-multi" "$n" >"$OUT/bin/$n"
  chmod 0755 "$OUT/bin/$n"
done

say "collecting licences"
kept=$(packages_taken)
for p in $kept; do take "usr/share/doc/$p/copyright" "$OUT/licenses/$p"; done

# version PROGRAM ARG...: runs it through the bundle's own loader (its final path is not there yet), answers its first line.
version() {
  local out
  out=$(env -i "$OUT/lib/ld-linux-x86-64.so.2" "$OUT/$1" "${@:2}" 2>&1) || die "$1 ${*:2} does not run on this machine: $out"
  head -n1 <<<"$out"
}
number() { grep -oE '[0-9]+(\.[0-9]+)+' <<<"$1" | head -n1; }
say "trying every program"
qemu=$(number "$(version bin/qemu-system-x86_64 --version)")
crun=$(sed -n 's/^crun=\([0-9.]*\).*/\1/p' "$pins") # runs only from its final place; tried below
erofs=$(number "$(version bin/mkfs.erofs --version)")
e2fs=$(number "$(version bin/mke2fs -V)")
zstd=$(number "$(version bin/zstd --version)")
iproute=$(number "$(version bin/ip -V)")
nft=$(number "$(version bin/nft --version)")
iptables=$(number "$(version bin/xtables-nft-multi iptables --version)")
cni=$(sed -n 's/^containernetworking-plugins=\([0-9.]*\).*/\1/p' "$pins")
version bin/qemu-img --version >/dev/null
version bin/tc -V >/dev/null
version bin/e2fsck -V >/dev/null
version bin/debugfs -V >/dev/null
version bin/xz --version >/dev/null
version bin/dump.erofs --version >/dev/null
version bin/fsck.erofs --version >/dev/null
for p in "${plugins[@]}"; do
  CNI_COMMAND=VERSION "$OUT/lib/ld-linux-x86-64.so.2" "$OUT/cni/$p" </dev/null >/dev/null || die "the CNI plugin $p does not run on this machine"
done
[ "${erofs%.*}" = "$(printf '%s\n1.8\n' "${erofs%.*}" | sort -V | tail -n1)" ] || die "mkfs.erofs 1.8 or newer is needed, found $erofs"
[ "${release%%-*}" = "$(printf '%s\n6.12\n' "${release%%-*}" | sort -V | tail -n1)" ] || die "kernel 6.12 or newer is needed, found $release"

{
  printf '{\n  "digest": "%s",\n  "inputs": "%s",\n  "suite": "%s",\n' "$digest" "$inputs" "$SUITE"
  printf '  "tools": {\n    "qemu": "%s",\n    "kernel": "%s",\n    "crun": "%s",\n    "erofs-utils": "%s",\n    "e2fsprogs": "%s",\n    "zstd": "%s",\n    "cni-plugins": "%s",\n    "iproute2": "%s",\n    "iptables": "%s",\n    "nftables": "%s"\n  },\n' \
    "$qemu" "$release" "$crun" "$erofs" "$e2fs" "$zstd" "$cni" "$iproute" "$iptables" "$nft"
  printf '  "pinned": %s,\n' "$([ "$digest" = "$asked" ] && echo true || echo false)"
  printf '  "packages": [\n'
  grep -xE "($(sed 's/[.+]/\\&/g' <<<"$kept" | paste -sd'|'))=.*" "$pins" | sed -E 's/^([^=]*)=(.*)$/    { "name": "\1", "version": "\2" }/; $!s/$/,/'
  printf '  ]\n}\n'
} >"$OUT/manifest.json"

seal "$OUT"
publish "$OUT" "$digest"
for p in qemu-system-x86_64 crun iptables; do
  env -i "$final/bin/$p" --version >/dev/null || {
    rm -rf "$final"
    die "the finished bundle's $p does not run from $final (is that file system mounted noexec?)"
  }
done
[ "$digest" = "$asked" ] || printf '%s' "$digest" >"$moved"
make_current "$digest"
say "done: $final, $(du -sm "$final" | cut -f1) MiB, QEMU $qemu, kernel $release, $(($(date +%s) - begun)) s"
