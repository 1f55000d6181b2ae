/** Decides for each mount of a container what it becomes in the pod's VM: docs/volumes.md has the table and the reasons. */
import { errno, PodvmError } from "../host/errors.js";
import type { MountConfig } from "../pod/types.js";
import { isAtomicWriter, isInGeneration } from "./atomic-writer.js";
import { localVolume } from "./local.js";
import { resolveOrMake } from "./missing.js";
import type { MountInfo } from "./mountinfo.js";
import { relayedVolume } from "./relayed.js";
import { socketVolume } from "./socket.js";
import { type HostSource, lookAt } from "./source.js";
import { terminationLog } from "./termination-log.js";
import type { VolumeChoice } from "./types.js";

export interface ClassifyOptions {
  podUid: string;
  mounts: readonly MountInfo[];
  /** Host sockets that may be forwarded, as configured. */
  sockets: readonly string[];
}

/** Of a mount with a host path. Rejects with what was found and what would work. */
export async function classifyMount(mount: MountConfig, options: ClassifyOptions): Promise<VolumeChoice> {
  if (mount.propagation === "bidirectional") {
    throw new PodvmError(
      "failed_precondition",
      `mount ${mount.containerPath}: bidirectional propagation cannot leave a virtual machine; give the pod a RuntimeClass of the host backend`,
    );
  }
  await makeMissing(mount);
  const source = await lookAt(mount.hostPath, options.mounts);
  switch (source.type) {
    case "socket":
      return socketVolume(mount, source, options.sockets);
    case "directory":
      return ofFolder(mount, source, options);
    case "file":
      return ofFile(mount, source, options);
    default:
      throw new PodvmError(
        "failed_precondition",
        `mount ${mount.containerPath}: ${source.path} is a ${NAMES[source.type]}, which a mount cannot bring into a virtual machine; give devices as devices`,
      );
  }
}

/** What cannot be made is not there: lookAt says so. */
async function makeMissing(mount: MountConfig): Promise<void> {
  await resolveOrMake(mount.hostPath).catch((err) => {
    if (!["ENOENT", "ENOTDIR", "ELOOP", "EEXIST"].includes(errno(err) ?? "")) throw err;
  });
}

const NAMES = { block: "block device", char: "character device", fifo: "named pipe" };

async function ofFolder(mount: MountConfig, source: HostSource, options: ClassifyOptions): Promise<VolumeChoice> {
  const local = await localVolume(mount, source, options);
  if (local) return local;
  // Kubernetes mounts these read-only always; a writable mount of such a folder is somebody's own, and is to see writes.
  if (mount.readonly && (await isAtomicWriter(source.truePath))) return synced(source.truePath, false, true);
  if (mount.readonly && (await isInGeneration(source.truePath))) return synced(source.path, false, false);
  return relayedVolume(mount, source);
}

/** What every runtime lets kubelet put there: small files that tell a container of its network. */
const POD_FILES = new Set(["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]);

async function ofFile(mount: MountConfig, source: HostSource, options: ClassifyOptions): Promise<VolumeChoice> {
  const log = terminationLog(mount, source, options.podUid);
  if (log) return log;
  const local = await localVolume(mount, source, options);
  if (local) return local;
  const etcHosts = source.path.endsWith(`/pods/${options.podUid}/etc-hosts`);
  if (etcHosts || POD_FILES.has(mount.containerPath)) return synced(source.path, true, true);
  // A key of a ConfigMap, reached by a subPath or a link: on a host too it stays as it was when it was mounted.
  if (mount.readonly && (await isInGeneration(source.truePath))) return synced(source.path, true, false);
  return relayedVolume(mount, source);
}

function synced(source: string, singleFile: boolean, follow: boolean): VolumeChoice {
  return { key: `synced:${source}`, spec: { kind: "synced", source, singleFile, follow }, subPath: "" };
}
