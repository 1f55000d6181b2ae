/** Mounts of this server's mount namespace, by mount(8) and umount(8): every Linux node has them. */
import { readFile } from "node:fs/promises";
import { PodvmError } from "./errors.js";
import { run } from "./run.js";

/** Mount points at or below the folder, the deepest first. */
export async function mountsBelow(folder: string): Promise<string[]> {
  const points = parseMountPoints(await readFile("/proc/self/mountinfo", "utf8"));
  return points.filter((point) => point === folder || point.startsWith(`${folder}/`)).reverse();
}

/** In the order of the file: a mount comes after the one that it lies in. */
export function parseMountPoints(mountinfo: string): string[] {
  return mountinfo.split("\n").flatMap((line) => {
    const point = line.split(" ")[4];
    // proc(5): space, tab, newline and backslash are octal escapes.
    return point === undefined
      ? []
      : [point.replace(/\\(\d{3})/g, (_, code) => String.fromCharCode(parseInt(code, 8)))];
  });
}

/**
 * Takes away every mount at or below the folder, at once for all who look for it; what is still in use goes with its last user (MNT_DETACH).
 * Nothing below the folder may be deleted before this has resolved: a deletion would follow the mounts.
 */
export async function unmountBelow(folder: string, deadlineMs: number): Promise<void> {
  // Several may be stacked on one point, hence again until there is none.
  for (let round = 0; round < 8; round++) {
    const points = await mountsBelow(folder);
    if (points.length === 0) return;
    await run(["umount", "-l", "--", ...new Set(points)], { deadlineMs, okCodes: [0, 1, 32] });
  }
  const [left] = await mountsBelow(folder);
  if (left) throw new PodvmError("internal", `${left} is still mounted: unmount it by hand, then try again`);
}
