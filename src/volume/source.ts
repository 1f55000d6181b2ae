/** What lies at the host path of a mount. */
import { realpath, stat } from "node:fs/promises";
import { errno, PodvmError } from "../host/errors.js";
import { aliases, type MountInfo } from "./mountinfo.js";

export interface HostSource {
  /** Links followed. */
  path: string;
  /** The same place inside the volume that kubelet bound it from, where it is a subPath; else `path`. */
  truePath: string;
  type: "directory" | "file" | "socket" | "block" | "char" | "fifo";
  mode: number;
  uid: number;
  gid: number;
  major: number;
  minor: number;
}

/** Follows links and looks. Rejects with not_found where there is nothing. */
export async function lookAt(hostPath: string, mounts: readonly MountInfo[]): Promise<HostSource> {
  try {
    const path = await realpath(hostPath);
    const found = await stat(path);
    return {
      path,
      truePath: await truePathOf(path, mounts),
      type: typeOf(found),
      mode: found.mode & 0o7777,
      uid: found.uid,
      gid: found.gid,
      major: ((found.rdev >> 8) & 0xfff) | (Math.floor(found.rdev / 2 ** 32) & ~0xfff),
      minor: (found.rdev & 0xff) | ((found.rdev >> 12) & 0xfff00),
    };
  } catch (err) {
    const code = errno(err);
    if (code === "ENOENT" || code === "ENOTDIR" || code === "ELOOP") {
      throw new PodvmError("not_found", `host_path ${hostPath} does not exist on this node; make it first`, {
        cause: err,
      });
    }
    throw err;
  }
}

/** kubelet binds a subPath to …/volume-subpaths/VOLUME/CONTAINER/INDEX; the mount table tells from where. */
async function truePathOf(path: string, mounts: readonly MountInfo[]): Promise<string> {
  if (!path.includes("/volume-subpaths/")) return path;
  const here = await stat(path);
  let first: string | undefined;
  for (const other of aliases(path, mounts)) {
    const there = await stat(other).catch(() => undefined);
    if (there?.dev !== here.dev || there.ino !== here.ino) continue;
    if (other.includes("/volumes/kubernetes.io~")) return other;
    first ??= other;
  }
  return first ?? path;
}

function typeOf(found: Awaited<ReturnType<typeof stat>>): HostSource["type"] {
  if (found.isDirectory()) return "directory";
  if (found.isFile()) return "file";
  if (found.isSocket()) return "socket";
  if (found.isBlockDevice()) return "block";
  return found.isFIFO() ? "fifo" : "char";
}
