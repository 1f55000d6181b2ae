/** Folders that every kubelet makes, wherever its root folder is. */
import { existsSync, readdirSync } from "node:fs";
import { rm, rmdir } from "node:fs/promises";

/** Links to the logs of all containers. */
export const logLinks = "/var/log/containers";
const devicePlugins = "/var/lib/kubelet/device-plugins";
export const kubeletFolders = [logLinks, devicePlugins, "/var/lib/kubelet"];

/** Those of `absent`, which were not there before a kubelet came, as far as nobody else has put anything there since. */
export async function removeKubeletFolders(absent: string[]): Promise<void> {
  for (const path of kubeletFolders.filter((one) => absent.includes(one) && existsSync(one))) {
    if (path === devicePlugins) {
      for (const name of ["kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"]) {
        await rm(`${path}/${name}`, { force: true });
      }
    }
    if (readdirSync(path).length === 0) await rmdir(path);
  }
}
