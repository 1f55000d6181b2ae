/**
 * What the server does at start, before it takes requests.
 *
 * Assumptions: every document was written before the side effect that it announces; VMs outlive the server; a VM's spec is enough to find or to
 * remove it; a network record is enough to take the network down; the agent knows what became of each container while the server was away.
 * Each pod has a time limit of its own: one that does not answer must not hold up the others.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { ContainerInfo } from "../gen/agent/v1/agent.js";
import { ContainerState as GuestState } from "../gen/agent/v1/agent.js";
import { withDeadline } from "../host/deadline.js";
import { errno } from "../host/errors.js";
import type { Vm } from "../vmm/vmm.js";
import { Container } from "./container.js";
import { endContainer, exitOf } from "./container-exit.js";
import type { PodContext } from "./context.js";
import { startPump } from "./output.js";
import { Pod } from "./pod.js";
import { stopLocked } from "./sandbox-stop.js";
import type { ContainerDocument } from "./types.js";
import { onVmDeath } from "./vm-death.js";

const ADOPT_MS = 10_000;
const POD_MS = 60_000;
const AGENT_MS = 30_000;
const DESTROY_MS = 20_000;

export async function recover(ctx: PodContext): Promise<void> {
  const pods = await ctx.podDocuments.load();
  const containers = await ctx.containerDocuments.load();
  for (const document of pods) {
    if (document.holdsResources) ctx.uids.claim(document.vm.uid);
    ctx.registry.addPod(new Pod(document));
  }
  for (const document of containers) {
    if (ctx.registry.findPod(document.podId)) ctx.registry.addContainer(new Container(document));
    else await ctx.containerDocuments.delete(document.id); // RemovePodSandbox had come as far as the pod's own document
  }
  await Promise.all(
    ctx.registry.pods().map(async (pod) => {
      try {
        await withDeadline(recoverPod(ctx, pod), POD_MS, `recovery of pod ${pod.id}`);
      } catch (err) {
        ctx.logger.error("a pod could not be recovered; StopPodSandbox and RemovePodSandbox try again", {
          err,
          pod: pod.id,
        });
      }
    }),
  );
  await sweep(ctx);
}

async function recoverPod(ctx: PodContext, pod: Pod): Promise<void> {
  const { document } = pod;
  if (document.phase === "creating") return undoHalfMade(ctx, pod);
  await dropHalfMadeContainers(ctx, pod);
  if (document.phase === "stopped") {
    // A stop that was cut short is finished; containers whose end was not yet written get it now.
    const end = { exitCode: 137, reason: "Error", message: document.message || "ended with its pod sandbox" };
    await Promise.all(ctx.registry.containersOf(pod.id).map((container) => endContainer(ctx, container.id, end)));
    return ctx.locks.run(`pod:${pod.id}`, () => stopLocked(ctx, pod));
  }
  const vm = await ctx.backends.byName(document.vmm).adopt(document.vm, ADOPT_MS);
  if (!vm) return onVmDeath(ctx, pod, { reason: "it was gone when the server started" });
  await adopt(ctx, pod, vm);
}

/** Nobody got its id: the client that asked is gone or asks again. */
async function undoHalfMade(ctx: PodContext, pod: Pod): Promise<void> {
  ctx.logger.info("undoing a pod whose making was cut short", { pod: pod.id });
  // In memory only: should the undo fail, the sandbox is listed, and Stop and Remove can finish.
  pod.document.phase = "stopped";
  pod.document.message = "its making was cut short and could not be undone wholly";
  await ctx.backends.byName(pod.document.vmm).destroy(pod.document.vm, DESTROY_MS);
  await ctx.network.teardown(pod.id, DESTROY_MS);
  await ctx.podDocuments.delete(pod.id);
  ctx.registry.deletePod(pod);
  ctx.uids.release(pod.document.vm.uid);
}

/** Their ids reached nobody either. What the guest has of them goes when its list is compared. */
async function dropHalfMadeContainers(ctx: PodContext, pod: Pod): Promise<void> {
  for (const container of ctx.registry.containersOf(pod.id)) {
    if (container.document.state !== "creating") continue;
    ctx.registry.deleteContainer(container);
    await ctx.containerDocuments.delete(container.id);
  }
}

async function adopt(ctx: PodContext, pod: Pod, vm: Vm): Promise<void> {
  pod.vm = vm;
  ctx.watchVm(pod, vm);
  // Before the first event: a container's end waits for its log.
  for (const container of ctx.registry.containersOf(pod.id)) {
    if (!container.document.logComplete) await startPump(ctx, pod, container);
  }
  await compareWithGuest(ctx, pod);
}

/** Brings documents and guest together. Also after a broken connection, when events may have been lost. */
export async function compareWithGuest(ctx: PodContext, pod: Pod): Promise<void> {
  const { containers } = await pod.call((agent) => agent.listContainers({ deadlineMs: AGENT_MS }), AGENT_MS);
  const inGuest = new Map(containers.map((info) => [info.containerId, info]));
  for (const container of ctx.registry.containersOf(pod.id)) {
    if (container.document.state === "creating") continue; // its creation is under way
    await compare(ctx, container, inGuest.get(container.id));
  }
  for (const id of inGuest.keys()) {
    if (ctx.registry.findContainer(id)) continue;
    ctx.logger.info("removing a container that only the guest knows", { pod: pod.id, container: id });
    await pod.call((agent) => agent.removeContainer(id, { deadlineMs: AGENT_MS }), AGENT_MS);
  }
}

async function compare(ctx: PodContext, container: Container, info: ContainerInfo | undefined): Promise<void> {
  const { document } = container;
  if (document.state === "exited") return;
  if (!info) {
    await endContainer(ctx, container.id, {
      exitCode: 255,
      reason: "Error",
      message: "the guest does not know this container",
    });
    return;
  }
  if (document.state === "created" && info.state !== GuestState.CONTAINER_STATE_CREATED) {
    await markStarted(ctx, document, info);
  }
  if (info.state === GuestState.CONTAINER_STATE_EXITED && info.exit) {
    await endContainer(ctx, container.id, exitOf(info.exit));
  }
}

/** StartContainer had come as far as the agent. */
async function markStarted(ctx: PodContext, document: ContainerDocument, info: ContainerInfo): Promise<void> {
  await ctx.locks.run(`container:${document.id}`, async () => {
    if (document.state !== "created") return;
    document.state = "running";
    document.starting = false;
    document.startedNs = `${info.startedNs}`;
    await ctx.containerDocuments.put(document);
  });
}

/** Removes what no document owns: networks, and folders of VMs with whatever still runs in them. */
async function sweep(ctx: PodContext): Promise<void> {
  for (const podId of await ctx.network.list()) {
    const owner = ctx.registry.findPod(podId);
    if (owner?.document.holdsResources) continue;
    ctx.logger.warn("sweeping a network that no pod owns", { pod: podId });
    await ctx.network.teardown(podId, DESTROY_MS).catch((err) => {
      ctx.logger.error("cannot sweep a network; tried again at the next start", { err, pod: podId });
    });
  }
  const owned = new Set(ctx.registry.pods().map((pod) => pod.id));
  for (const id of await namesIn(join(ctx.settings.stateDir, "vms"))) {
    if (owned.has(id)) continue;
    ctx.logger.warn("sweeping the folder of a VM that no pod owns", { id });
    await sweepVm(ctx, id);
  }
}

async function sweepVm(ctx: PodContext, id: string): Promise<void> {
  const short = id.slice(0, 20);
  const spec = {
    id,
    dir: join(ctx.settings.stateDir, "vms", id),
    runDir: join(ctx.settings.runDir, "vms", short),
    uid: 0,
    cgroup: `/podvm/podvm-${short}`,
    memoryMib: 0,
    vcpus: 0,
    guest: ctx.assets.guest,
    bundle: ctx.assets.bundle,
    disks: [],
  };
  await ctx.backends
    .forHandler("")
    .destroy(spec, DESTROY_MS)
    .catch((err) => ctx.logger.error("cannot sweep a VM's folder; tried again at the next start", { err, id }));
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (err) {
    if (errno(err) === "ENOENT") return [];
    throw err;
  }
}
