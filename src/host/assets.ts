/** Where the parts are that setup made. Content-addressed, read-only; a VM keeps the version that it began with. */
export interface Assets {
  /**
   * Runtime bundle folder: bin/ (qemu-system-x86_64, qemu-img, mkfs.erofs, mkfs.ext4, zstd, ip, tc, iptables, nft …), lib/ (with the
   * loader), share/qemu (firmware), cni/ (plugins), licenses/, manifest.json. Programs run from this very path.
   */
  bundle: string;
  /** Guest image folder: vmlinux, initrd, manifest.json ({kernel, digest, agent, crun}). */
  guest: string;
  /** Path of podvm-launch. */
  launch: string;
  /** Path of podvm-agent for pods without a VM; a setup older than those has none there. */
  agent: string;
  /** Path of podvm-share. */
  share: string;
}

export function bundleTool(assets: Pick<Assets, "bundle">, name: string): string {
  return `${assets.bundle}/bin/${name}`;
}
