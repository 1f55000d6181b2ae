/**
 * Plugins that an earlier server started and that still run after its death (kill -9 in the middle of ADD). Their work has to end
 * before DEL undoes it. They are found by their environment: it holds the pod's id, and what they run inherits it.
 */
import { readdir, readFile } from "node:fs/promises";
import { sleep } from "../host/deadline.js";

/** A plugin that does not end by itself within this time is killed. */
const patienceMs = 5_000;

/** Resolves when no such process is left: after `patienceMs`, or `deadlineMs` where that is less, they are killed. */
export async function awaitLeftovers(podId: string, deadlineMs: number): Promise<void> {
  const end = performance.now() + Math.min(patienceMs, deadlineMs / 2);
  for (;;) {
    const pids = await pluginsOf(podId);
    if (pids.length === 0) return;
    if (performance.now() >= end) {
      for (const pid of pids) kill(pid);
      await sleep(50); // a killed process holds its locks until it is gone
      return;
    }
    await sleep(50);
  }
}

async function pluginsOf(podId: string): Promise<number[]> {
  const wanted = `\0CNI_CONTAINERID=${podId}\0`;
  const pids: number[] = [];
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const environment = await readFile(`/proc/${entry}/environ`, "latin1").catch(() => ""); // ended meanwhile, or a zombie
    if (`\0${environment}`.includes(wanted)) pids.push(Number(entry));
  }
  return pids;
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // ESRCH: it has ended by itself meanwhile
  }
}
