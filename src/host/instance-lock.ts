import { constants } from "node:fs";
import { mkdir, open } from "node:fs/promises";
import { join } from "node:path";
import { PodvmError } from "./errors.js";
import { whileLocked } from "./file-lock.js";
import { readFileIfThere } from "./files.js";
import { isAlive, processStat } from "./process.js";

const SIZE = 128;

/** For another server that looks at the same instant: it needs a few milliseconds. */
const LOOK_MS = 10_000;

/**
 * One server per state folder: two would take each other's VMs for leftovers. The holder is named by pid and start time, so that a server killed
 * with -9 leaves nothing that has to be removed. Rejects with failed_precondition while another lives. Of two that start at the same instant one is
 * refused: looking and writing is done under flock(2), on the file itself, which is never replaced.
 */
export async function lockState(stateDir: string): Promise<void> {
  await mkdir(stateDir, { recursive: true, mode: 0o711 }); // VMMs, which run as other users, pass through it
  const path = join(stateDir, "server.json");
  await whileLocked(path, LOOK_MS, "another podvm server is starting", async () => {
    const holder = parse(await readFileIfThere(path));
    if (holder && holder.pid !== process.pid && (await isAlive(holder))) {
      throw new PodvmError(
        "failed_precondition",
        `${stateDir} is in use by the podvm server with pid ${holder.pid}: stop that one, or give this one another state_dir`,
      );
    }
    const me = await processStat(process.pid);
    await overwrite(path, JSON.stringify({ pid: process.pid, starttime: me?.starttime }));
  });
}

/** In place and always of one size, so that it needs no new block: a server must be able to come back on a full disk. */
async function overwrite(path: string, text: string): Promise<void> {
  const file = await open(path, constants.O_WRONLY | constants.O_CREAT, 0o600);
  try {
    await file.write(`${text.padEnd(SIZE - 1)}\n`, 0);
    await file.truncate(SIZE);
    await file.sync();
  } finally {
    await file.close();
  }
}

function parse(text: string | undefined): { pid: number; starttime: number } | undefined {
  if (text === undefined) return undefined;
  try {
    const value = JSON.parse(text) as { pid?: unknown; starttime?: unknown };
    if (typeof value.pid === "number" && typeof value.starttime === "number")
      return value as { pid: number; starttime: number };
  } catch {
    // new and empty, or written by nothing that lives
  }
  return undefined;
}
