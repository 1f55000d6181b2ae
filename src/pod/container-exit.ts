import type { ExitRecord } from "../gen/agent/v1/agent.js";
import type { Container } from "./container.js";
import type { PodContext } from "./context.js";
import { type Nanoseconds, nowNs } from "./types.js";

export interface Exit {
  exitCode: number;
  reason: string;
  message: string;
  /** Absent: now. */
  finishedNs?: Nanoseconds;
}

/** How a container ends whose VM was taken away by StopPodSandbox before it had ended by itself. */
export const VM_KILLED: Exit = { exitCode: 137, reason: "Error", message: "ended with its pod sandbox" };

/** The log must be whole before the exit shows; a container that leaves its output open cannot hold that up for longer. */
const DRAIN_MS = 5_000;

/** The agent's record in CRI's words. The guest is not believed: code and time are brought into range. */
export function exitOf(record: ExitRecord): Exit {
  const exitCode = record.exitCode & 0xff;
  const reason = record.oomKilled ? "OOMKilled" : exitCode === 0 ? "Completed" : "Error";
  return { exitCode, reason, message: "", finishedNs: guestTime(record.timeNs) };
}

/** A time that a guest states: now, where it lies in the future (by more than clocks differ) or cannot be. */
export function guestTime(ns: bigint): Nanoseconds {
  const now = BigInt(Date.now()) * 1_000_000n;
  return `${ns > 0n && ns < now + 60_000_000_000n ? ns : now}`;
}

/** Records the end of a container, once; a container that never started ends too when its VM does. */
export async function endContainer(ctx: PodContext, id: string, exit: Exit): Promise<void> {
  await ctx.locks.run(`container:${id}`, async () => {
    const container = ctx.registry.findContainer(id);
    if (container) await endLocked(ctx, container, exit);
  });
}

/** The same for a caller that holds the container's lock. */
export async function endLocked(ctx: PodContext, container: Container, exit: Exit): Promise<void> {
  const { document } = container;
  if (document.state === "exited") return;
  await finishLog(ctx, container);
  await ctx.registry.findPod(document.podId)?.volumes?.collect(container.id);
  document.state = "exited";
  document.exitCode = exit.exitCode;
  document.reason = exit.reason;
  document.message = exit.message;
  document.finishedNs = exit.finishedNs ?? nowNs();
  document.starting = false;
  // Those who wait need the truth in memory; a document that could not be written is found again from the agent after a restart.
  container.announceExit();
  ctx.events.emit("stopped", ctx.registry.findPod(document.podId), container);
  await ctx.containerDocuments.put(document);
}

async function finishLog(ctx: PodContext, container: Container): Promise<void> {
  const { pump, document } = container;
  if (!pump) return;
  const vmAlive = ctx.registry.findPod(document.podId)?.vm !== undefined;
  if (!vmAlive) await pump.end(DRAIN_MS); // what has arrived is all there will be
  document.logComplete = await pump.drained(DRAIN_MS);
  if (!document.logComplete && vmAlive) {
    ctx.logger.warn("output still arrives after the container's end; its log is completed in the background", {
      container: container.id,
    });
  }
}
