/** /proc/self/mountinfo (proc_pid_mountinfo(5)). */
import { readFile } from "node:fs/promises";

export interface MountInfo {
  /** "8:1" */
  device: string;
  /** Path in the file system that is mounted. */
  root: string;
  mountPoint: string;
  fsType: string;
  /** Mounts made in its peers appear in it, and, where it is shared, the other way round. */
  propagation: "private" | "slave" | "shared";
}

/** All mounts that this process sees, in their order: a later one at the same place lies over an earlier one. */
export async function readMountInfo(): Promise<MountInfo[]> {
  return parseMountInfo(await readFile("/proc/self/mountinfo", "utf8"));
}

export function parseMountInfo(text: string): MountInfo[] {
  const mounts: MountInfo[] = [];
  for (const line of text.split("\n")) {
    const fields = line.split(" ");
    const separator = fields.indexOf("-", 6);
    const [, , device, root, mountPoint] = fields;
    const fsType = fields[separator + 1];
    if (separator < 0 || !device || !root || !mountPoint || !fsType) continue;
    const peers = fields.slice(6, separator);
    const has = (kind: string) => peers.some((field) => field.startsWith(`${kind}:`));
    const propagation = has("shared") ? "shared" : has("master") ? "slave" : "private";
    mounts.push({ device, root: unoctal(root), mountPoint: unoctal(mountPoint), fsType, propagation });
  }
  return mounts;
}

/** Blank, tab, newline and backslash come as octal. */
function unoctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** The mount that a real path lies on. */
export function mountOf(path: string, mounts: readonly MountInfo[]): MountInfo | undefined {
  let found: MountInfo | undefined;
  for (const mount of mounts) {
    if (below(path, mount.mountPoint) === undefined) continue;
    if (!found || mount.mountPoint.length >= found.mountPoint.length) found = mount;
  }
  return found;
}

/** Where else the same place can be reached, the widest mounts first. Each is to be compared by inode: another mount may lie over it. */
export function aliases(path: string, mounts: readonly MountInfo[]): string[] {
  const mount = mountOf(path, mounts);
  const rest = mount && below(path, mount.mountPoint);
  if (!mount || rest === undefined) return [];
  const inside = join(mount.root, rest);
  const others = mounts
    .filter((other) => other.device === mount.device && other.mountPoint !== mount.mountPoint)
    .map((other) => ({ other, rest: below(inside, other.root) }))
    .filter(({ rest }) => rest !== undefined)
    .sort((a, b) => a.other.root.length - b.other.root.length);
  return others.map(({ other, rest }) => join(other.mountPoint, rest ?? ""));
}

/** The part of a path below a folder, "" for the folder itself, undefined where it does not lie below. */
export function below(path: string, folder: string): string | undefined {
  if (folder === "/") return path.slice(1);
  if (path === folder) return "";
  return path.startsWith(`${folder}/`) ? path.slice(folder.length + 1) : undefined;
}

function join(folder: string, rest: string): string {
  if (rest === "") return folder;
  return folder === "/" ? `/${rest}` : `${folder}/${rest}`;
}
