/** System V shared memory on the host: critest's HostIpc specs make a segment with `ipcmk` each and never remove it. */
import { existsSync, readFileSync } from "node:fs";
import { run } from "../../src/host/run.js";

/** What critest asks for. */
const bytes = 1 << 20;

/** Ids of segments of critest's size that nobody uses and whose maker is gone (proc_sysvipc(5)). */
export function abandonedSegments(): string[] {
  const lines = readFileSync("/proc/sysvipc/shm", "utf8").trim().split("\n").slice(1);
  return lines
    .map((line) => line.trim().split(/\s+/))
    .filter(([, , , size, maker, , users]) => Number(size) === bytes && users === "0" && !existsSync(`/proc/${maker}`))
    .map(([, id = ""]) => id);
}

/** Removes those that are not in `before`. */
export async function removeSegments(before: string[]): Promise<void> {
  for (const id of abandonedSegments()) {
    if (!before.includes(id)) await run(["ipcrm", "-m", id]);
  }
}
