/** Removes asset folders that nothing uses any more. */
import { realpath, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { errno } from "../host/errors.js";
import { type AssetKind, assetKinds, installedAssets } from "./folders.js";
import { whileNobodyBuilds } from "./lock.js";

/**
 * Removes every installed bundle and guest image but the current ones and those in `keep`: absolute folder paths, as `VmSpec.bundle` and
 * `VmSpec.guest` of all pods hold them. Answers the paths removed. Interrupted, it leaves no folder half removed under its name.
 */
export async function pruneAssets(assetsDir: string, keep: Iterable<string>, deadlineMs = 30_000): Promise<string[]> {
  const removed: string[] = [];
  const inUse = new Set<string>();
  for (const path of keep) inUse.add((await realpathIfThere(path)) ?? path);
  for (const kind of assetKinds) {
    const folder = await realpathIfThere(`${assetsDir}/${kind}`);
    if (folder === undefined) continue;
    await whileNobodyBuilds(folder, deadlineMs, async () => {
      for (const path of await unused(dirname(folder), kind, inUse)) {
        // The name of an unfinished build: whoever builds next clears it if this is interrupted.
        const doomed = `${folder}/.build-removed-${path.slice(-16)}`;
        await rm(doomed, { recursive: true, force: true });
        await rename(path, doomed);
        removed.push(path);
        await rm(doomed, { recursive: true, force: true });
      }
    });
  }
  return removed;
}

async function unused(assetsDir: string, kind: AssetKind, inUse: ReadonlySet<string>): Promise<string[]> {
  const folders = (await installedAssets(assetsDir)).filter((folder) => folder.kind === kind);
  // A link that leads nowhere is a setup to be repaired, not a reason to remove what it may have meant.
  if (!folders.some((folder) => folder.current)) return [];
  return folders.filter((folder) => !folder.current && !inUse.has(folder.path)).map((folder) => folder.path);
}

/** Links resolved, so that the same folder has the same name; undefined where there is nothing. */
async function realpathIfThere(path: string): Promise<string | undefined> {
  try {
    return await realpath(path);
  } catch (err) {
    if (errno(err) === "ENOENT") return undefined;
    throw err;
  }
}
