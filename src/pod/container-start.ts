import { hasCode, messageOf } from "../host/errors.js";
import type { Container } from "./container.js";
import { endLocked, guestTime } from "./container-exit.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";
import { SIGKILL } from "./signals.js";

const START_MS = 60_000;
const KILL_MS = 5_000;

/** CRI StartContainer. A container that does not start has exited with 128, reason StartError, and the call fails with why. */
export async function startContainer(ctx: PodContext, id: string): Promise<void> {
  const container = ctx.registry.container(id);
  const pod = ctx.registry.pod(container.document.podId);
  await ctx.locks.run(`container:${container.id}`, async () => {
    const { document } = container;
    if (document.state !== "created") throw container.wrongState("created");
    if (!pod.ready) throw pod.notReady();
    await ctx.containerDocuments.put({ ...document, starting: true }); // from here on only the agent knows whether it runs
    document.starting = true;
    let started: bigint;
    try {
      started = await pod.call((agent, deadlineMs) => agent.startContainer(container.id, { deadlineMs }), START_MS);
    } catch (err) {
      await killUncertain(pod, container, err);
      await endLocked(ctx, container, { exitCode: 128, reason: "StartError", message: messageOf(err) });
      throw err;
    }
    document.startedNs = guestTime(started);
    document.state = "running";
    document.starting = false;
    await ctx.containerDocuments.put(document).catch((err) => {
      // It runs, and that is what counts: the document on disk says "starting", so a restarted server asks the agent.
      ctx.logger.error("cannot record that a container runs", { err, container: container.id });
    });
    ctx.events.emit("started", pod, container);
  });
}

/** No answer in time is no proof that it does not run: what is reported as not started must not go on inside. */
async function killUncertain(pod: Pod, container: Container, err: unknown): Promise<void> {
  if (!hasCode(err, "deadline_exceeded") && !hasCode(err, "unavailable")) return;
  // Where this fails too, the next comparison with the guest (recovery.ts) does it.
  await pod
    .call((agent, deadlineMs) => agent.signalContainer(container.id, SIGKILL, true, { deadlineMs }), KILL_MS)
    .catch(() => {});
}
