/**
 * Kubernetes' AtomicWriter (pkg/volume/util/atomic_writer.go): ConfigMaps, Secrets, projected tokens and the downward API are folders of links
 * `KEY -> ..data/KEY`, with `..data` a link to a folder `..TIMESTAMP` beside it, replaced by rename when there is something new.
 */
import { lstat, opendir, readlink } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

export const DATA_LINK = "..data";
const MAX_NAMES = 16_384;

/** Name of the folder with the present generation; undefined where the folder has not this layout and nothing else. */
export async function presentGeneration(folder: string): Promise<string | undefined> {
  try {
    const target = await readlink(join(folder, DATA_LINK));
    if (!target.startsWith("..") || target === ".." || target.includes("/")) return undefined;
    return (await lstat(join(folder, target))).isDirectory() ? target : undefined;
  } catch {
    return undefined;
  }
}

/** Whether the folder holds what AtomicWriter writes, and nothing else. */
export async function isAtomicWriter(folder: string): Promise<boolean> {
  if (!(await presentGeneration(folder))) return false;
  let count = 0;
  for await (const { name } of await opendir(folder)) {
    if (++count > MAX_NAMES) return false;
    if (name.startsWith("..")) continue;
    const target = await readlink(join(folder, name)).catch(() => "");
    if (!target.startsWith(`${DATA_LINK}/`)) return false;
  }
  return true;
}

/** Whether the path lies inside a generation of such a folder: what a subPath of a ConfigMap leads to, and a link to one of its keys. */
export async function isInGeneration(path: string): Promise<boolean> {
  for (let at = path; at !== "/"; at = dirname(at)) {
    if (/^\.\.\d{4}_\d\d_\d\d_/.test(basename(at))) return (await presentGeneration(dirname(at))) !== undefined;
  }
  return false;
}
