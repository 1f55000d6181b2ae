/** emptyDir: nobody but the pod sees it, so it lies in the guest. */
import { stat, statfs } from "node:fs/promises";
import { PodvmError } from "../host/errors.js";
import type { MountConfig } from "../pod/types.js";
import { below, type MountInfo } from "./mountinfo.js";
import type { HostSource } from "./source.js";
import type { VolumeChoice } from "./types.js";

/** The volume, with the path inside it, where the source is an emptyDir of this pod or lies in one. */
export async function localVolume(
  mount: MountConfig,
  source: HostSource,
  { podUid, mounts }: { podUid: string; mounts: readonly MountInfo[] },
): Promise<VolumeChoice | undefined> {
  const marker = `/pods/${podUid}/volumes/kubernetes.io~empty-dir/`;
  const at = source.truePath.indexOf(marker);
  if (podUid === "" || at < 0) return undefined;
  const [name = ""] = source.truePath.slice(at + marker.length).split("/");
  const root = `${source.truePath.slice(0, at)}${marker}${name}`;
  const meta = await stat(root);
  const mounted = mounts.findLast((info) => info.mountPoint === root);
  if (mounted && mounted.fsType !== "tmpfs") {
    throw new PodvmError(
      "unimplemented",
      `mount ${mount.containerPath}: an emptyDir on ${mounted.fsType} cannot be had in a virtual machine; use medium "" or Memory`,
    );
  }
  return {
    key: `local:${root}`,
    spec: {
      kind: "local",
      memory: mounted !== undefined,
      size: mounted ? await sizeOf(root) : 0,
      mode: meta.mode & 0o7777,
      uid: meta.uid,
      gid: meta.gid,
    },
    subPath: below(source.truePath, root) ?? "",
  };
}

/** kubelet gives the host's tmpfs the size that the volume shall have. */
async function sizeOf(root: string): Promise<number> {
  const { blocks, bsize } = await statfs(root);
  return blocks * bsize;
}
