/** Processes that are not our children: named by pid and start time, so that a pid used again is never mistaken for the first. */
import { readFile } from "node:fs/promises";
import { sleep } from "./deadline.js";
import { errno, PodvmError } from "./errors.js";

export interface ProcessRef {
  pid: number;
  /** Field 22 of /proc/PID/stat: clock ticks after boot. */
  starttime: number;
}

export interface ProcessStat {
  /** R, S, D, Z … as in proc(5). */
  state: string;
  starttime: number;
  /** User and system time of all its threads, nanoseconds. */
  cpuNs: bigint;
}

/** USER_HZ, the unit of times in /proc, is 100 on every architecture that PodVM runs on. */
const NS_PER_TICK = 10_000_000n;

/** Undefined where there is no such process. */
export async function processStat(pid: number): Promise<ProcessStat | undefined> {
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/stat`, "utf8");
  } catch (err) {
    if (errno(err) === "ENOENT" || errno(err) === "ESRCH") return undefined;
    throw err;
  }
  // The name in parentheses may hold anything; the fields after it do not.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const ticks = BigInt(fields[11] ?? 0) + BigInt(fields[12] ?? 0);
  return { state: fields[0] ?? "?", starttime: Number(fields[19]), cpuNs: ticks * NS_PER_TICK };
}

/** False also for a zombie: it runs no more and holds nothing, whoever is to reap it. */
export async function isAlive(ref: ProcessRef): Promise<boolean> {
  const stat = await processStat(ref.pid);
  return stat !== undefined && stat.starttime === ref.starttime && stat.state !== "Z" && stat.state !== "X";
}

/** SIGKILL, unless it is gone already. */
export async function killProcess(ref: ProcessRef): Promise<void> {
  if (!(await isAlive(ref))) return;
  try {
    process.kill(ref.pid, "SIGKILL");
  } catch (err) {
    if (errno(err) !== "ESRCH") throw err;
  }
}

/** Waits until the process is gone (a zombie is); rejects with deadline_exceeded. There is no event for processes that are not our children. */
export async function waitGone(ref: ProcessRef, deadlineMs: number): Promise<void> {
  const end = performance.now() + deadlineMs;
  for (let pause = 2; await isAlive(ref); pause = Math.min(pause * 2, 100)) {
    if (performance.now() > end) {
      throw new PodvmError("deadline_exceeded", `process ${ref.pid} still runs after ${Math.round(deadlineMs)} ms`);
    }
    await sleep(pause);
  }
}
