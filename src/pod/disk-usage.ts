import { stat } from "node:fs/promises";
import type { Pod } from "./pod.js";

/** What the writable disks of these pods take of this node's file system now: they are sparse. */
export async function writableUsage(pods: readonly Pod[]): Promise<{ bytes: number; inodes: number }> {
  const paths = pods.flatMap(({ document }) =>
    document.vm.disks.flatMap(({ source }) => (source.kind === "raw" && !source.readOnly ? [source.path] : [])),
  );
  // A pod that is just being removed has none any more.
  const found = await Promise.allSettled(paths.map((path) => stat(path)));
  const disks = found.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  return { bytes: disks.reduce((sum, { blocks }) => sum + blocks * 512, 0), inodes: disks.length };
}
