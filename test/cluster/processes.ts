/** Long-running programs of the cluster: their own session, output in a file, found again by pid and start time. */
import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { isAlive, type ProcessRef, processStat } from "../../src/host/process.js";
import { until } from "../support/until.js";

export interface Started extends ProcessRef {
  name: string;
}

/** Starts `argv` with its output in FOLDER/NAME.log; it lives on when the caller ends. */
export async function start(
  folder: string,
  name: string,
  argv: readonly [string, ...string[]],
  env: NodeJS.ProcessEnv = process.env,
): Promise<Started> {
  const log = openSync(join(folder, `${name}.log`), "a");
  const child = spawn(argv[0], argv.slice(1), { cwd: folder, env, stdio: ["ignore", log, log], detached: true });
  closeSync(log);
  await new Promise((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", reject);
  });
  child.unref();
  const pid = child.pid as number;
  return { name, pid, starttime: (await processStat(pid))?.starttime ?? 0 };
}

/** `ask` until it answers true; at once an error with the end of the program's log if it has ended. */
export async function upAndRunning(
  folder: string,
  started: Started,
  deadlineMs: number,
  ask: () => Promise<boolean>,
): Promise<void> {
  let ended = false;
  await until(`${started.name} is up`, deadlineMs, async () => {
    ended = !(await isAlive(started));
    return ended || (await ask().catch(() => false));
  }).catch((err: Error) => {
    throw new Error(`${err.message}; the end of its log:\n${logTail(folder, started.name)}`);
  });
  if (ended) throw new Error(`${started.name} ended at once; the end of its log:\n${logTail(folder, started.name)}`);
}

export function logTail(folder: string, name: string, lines = 15): string {
  return readFileSync(join(folder, `${name}.log`), "utf8")
    .trimEnd()
    .split("\n")
    .slice(-lines)
    .join("\n");
}

/** SIGTERM, after 20 s SIGKILL; resolves when it is gone. Fine where it has gone already. */
export async function end(started: Started): Promise<void> {
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    if (!(await isAlive(started))) return;
    try {
      process.kill(started.pid, signal);
    } catch {
      return; // it went in between
    }
    await until(`${started.name} ends`, 20_000, async () => !(await isAlive(started))).catch(() => undefined);
  }
}
