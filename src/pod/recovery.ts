/**
 * What the server does at start, before it takes requests.
 *
 * Assumptions: every document was written before the side effect that it announces; VMs outlive the server; a VM's spec is enough to find or to
 * remove it; a network record is enough to take the network down; the agent knows what became of each container while the server was away.
 * Each pod has a time limit of its own: one that does not answer must not hold up the others.
 */
import { readdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { ContainerInfo } from "../gen/agent/v1/agent.js";
import { ContainerState as GuestState } from "../gen/agent/v1/agent.js";
import { openCgroups } from "../host/cgroup.js";
import { sleep, withDeadline } from "../host/deadline.js";
import { errno, messageOf } from "../host/errors.js";
import type { Vm } from "../vmm/vmm.js";
import { Container } from "./container.js";
import { endContainer, exitOf, guestTime } from "./container-exit.js";
import type { PodContext } from "./context.js";
import { positionPath, startPump } from "./output.js";
import { Pod } from "./pod.js";
import { applySize } from "./sandbox-resize.js";
import { stopLocked } from "./sandbox-stop.js";
import { SIGKILL } from "./signals.js";
import type { ContainerDocument } from "./types.js";
import { vmCgroup, vmCgroupLeaf } from "./vm-cgroup.js";
import { onVmDeath } from "./vm-death.js";

/** A node that has just come back is busy: patience, in several attempts, before a pod is given up. */
const ADOPT_MS = 25_000;
const POD_MS = 60_000;
const AGENT_MS = 30_000;
const DESTROY_MS = 20_000;
const AGAIN_MS = 5_000;

export async function recover(ctx: PodContext): Promise<void> {
  const pods = await ctx.podDocuments.load();
  const containers = await ctx.containerDocuments.load();
  for (const document of pods) {
    if (document.holdsResources) ctx.uids.claim(document.vm.uid);
    ctx.registry.addPod(new Pod(document));
  }
  for (const document of containers) {
    // In the making: its id reached nobody, and what the guest has of it goes when its list is compared. Without a pod: RemovePodSandbox had
    // come as far as the pod's own document.
    const wanted = document.state !== "creating" && ctx.registry.findPod(document.podId);
    if (wanted) ctx.registry.addContainer(new Container(document));
    else await ctx.containerDocuments.delete(document.id);
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
  if (document.phase === "creating") return ctx.locks.run(`pod:${pod.id}`, () => undoHalfMade(ctx, pod));
  if (document.phase === "stopped") {
    // A stop that was cut short is finished; containers whose end was not yet written get it now.
    const end = { exitCode: 137, reason: "Error", message: document.message || "ended with its pod sandbox" };
    await Promise.all(ctx.registry.containersOf(pod.id).map((container) => endContainer(ctx, container.id, end)));
    return ctx.locks.run(`pod:${pod.id}`, () => stopLocked(ctx, pod));
  }
  let vm: Vm | undefined;
  try {
    vm = await findVm(ctx, pod);
  } catch (err) {
    // Ready and of no use would be a lie that nobody corrects: NotReady has kubelet stop it and make another.
    await onVmDeath(ctx, pod, { reason: `its VMM does not answer: ${messageOf(err)}` });
    throw err;
  }
  if (!vm) return onVmDeath(ctx, pod, { reason: "it was gone when the server started" });
  await adopt(ctx, pod, vm);
}

async function findVm(ctx: PodContext, pod: Pod): Promise<Vm | undefined> {
  const { vmm, vm } = pod.document;
  const end = Date.now() + ADOPT_MS;
  for (;;) {
    try {
      return await ctx.backends.byName(vmm).adopt(vm, Math.max(end - Date.now(), 1000));
    } catch (err) {
      if (Date.now() >= end) throw err;
      await sleep(500);
    }
  }
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

async function adopt(ctx: PodContext, pod: Pod, vm: Vm): Promise<void> {
  pod.vm = vm;
  ctx.watchVm(pod, vm);
  void pod.volumes?.resume().catch((err) => ctx.logger.error("cannot attend a pod's volumes", { err, pod: pod.id }));
  // Before the first event: a container's end waits for its log.
  for (const container of ctx.registry.containersOf(pod.id)) {
    if (!container.document.logComplete) await pumpAgain(ctx, pod, container);
  }
  try {
    await compareWithGuest(ctx, pod);
  } catch (err) {
    void compareLater(ctx, pod);
    throw err;
  } finally {
    void resizeAgain(ctx, pod);
  }
}

/** A resize that was cut short is finished; where it was not, this finds nothing to do. kubelet repeats one that fails. */
async function resizeAgain(ctx: PodContext, pod: Pod): Promise<void> {
  await ctx.locks
    .run(`pod:${pod.id}`, async () => {
      if (pod.ready) await applySize(ctx, pod);
    })
    .catch((err) => ctx.logger.warn("cannot bring a pod's VM to its size", { err, pod: pod.id }));
}

/** An agent that did not answer in time (a paused or overloaded guest) still has to be asked what became of its containers. */
function compareLater(ctx: PodContext, pod: Pod): Promise<void> {
  return tryUntilDone(
    () => !pod.ready,
    () => compareWithGuest(ctx, pod),
  );
}

/** After a broken connection, when events may have been lost: as often as it takes. */
export async function compareAgain(ctx: PodContext, pod: Pod): Promise<void> {
  try {
    await compareWithGuest(ctx, pod);
  } catch (err) {
    ctx.logger.warn("cannot compare with the guest; trying again", { err, pod: pod.id });
    await compareLater(ctx, pod);
  }
}

/** A log that cannot be written (disk full, folder gone) must not keep the pod from being adopted: its container blocks until it can. */
async function pumpAgain(ctx: PodContext, pod: Pod, container: Container): Promise<void> {
  try {
    await startPump(ctx, pod, container);
  } catch (err) {
    ctx.logger.error("cannot go on with a container's log; trying again", { err, container: container.id });
    void tryUntilDone(
      () => isStale(ctx, pod, container),
      () => startPump(ctx, pod, container),
    );
  }
}

function isStale(ctx: PodContext, pod: Pod, container: Container): boolean {
  return !pod.ready || ctx.registry.findContainer(container.id) !== container;
}

async function tryUntilDone(over: () => boolean, work: () => Promise<void>): Promise<void> {
  for (let done = false; !done && !over(); ) {
    await sleep(AGAIN_MS);
    done = await work().then(
      () => true,
      () => false,
    );
  }
}

/** Brings documents and guest together. */
async function compareWithGuest(ctx: PodContext, pod: Pod): Promise<void> {
  const { containers } = await pod.call((agent, deadlineMs) => agent.listContainers({ deadlineMs }), AGENT_MS);
  const inGuest = new Map(containers.map((info) => [info.containerId, info]));
  for (const container of ctx.registry.containersOf(pod.id)) {
    if (container.document.state === "creating") continue; // its creation is under way
    await compare(ctx, pod, container, inGuest.get(container.id));
  }
  for (const id of inGuest.keys()) {
    if (ctx.registry.containerOf(pod.id, id)) continue;
    ctx.logger.info("removing a container that only the guest knows", { pod: pod.id, container: id });
    await pod.call((agent, deadlineMs) => agent.removeContainer(id, { deadlineMs }), AGENT_MS);
  }
}

async function compare(
  ctx: PodContext,
  pod: Pod,
  container: Container,
  info: ContainerInfo | undefined,
): Promise<void> {
  const { document } = container;
  if (document.state === "exited") {
    if (info?.state === GuestState.CONTAINER_STATE_RUNNING) await killForgotten(ctx, pod, container);
    return;
  }
  if (!info) {
    await endContainer(ctx, container.id, {
      exitCode: 255,
      reason: "ContainerStatusUnknown",
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

/** It was reported as not started, or as ended, without an answer from the guest: that must become true. */
async function killForgotten(ctx: PodContext, pod: Pod, container: Container): Promise<void> {
  ctx.logger.warn("killing a container that runs although it has exited", { pod: pod.id, container: container.id });
  await pod.call((agent, deadlineMs) => agent.signalContainer(container.id, SIGKILL, true, { deadlineMs }), AGENT_MS);
}

/** StartContainer had come as far as the agent. */
async function markStarted(ctx: PodContext, document: ContainerDocument, info: ContainerInfo): Promise<void> {
  await ctx.locks.run(`container:${document.id}`, async () => {
    if (document.state !== "created") return;
    document.state = "running";
    document.starting = false;
    document.startedNs = guestTime(info.startedNs);
    await ctx.containerDocuments.put(document);
    ctx.events.emit("started", ctx.registry.findPod(document.podId), ctx.registry.findContainer(document.id));
  });
}

/** Removes what no document owns: networks, folders of VMs with whatever still runs in them, and records of logs. */
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
  const logs = dirname(positionPath(ctx, "any"));
  for (const name of await namesIn(logs)) {
    const known = ctx.registry.containers().some(({ id }) => positionPath(ctx, id) === join(logs, name));
    if (!known) await rm(join(logs, name), { force: true });
  }
}

/** Nothing tells what its pod was; its cgroup is known by its last part, whatever parent the client had named. */
async function sweepVm(ctx: PodContext, id: string): Promise<void> {
  const names = await (await openCgroups()).find(vmCgroupLeaf(id));
  const spec = {
    id,
    dir: join(ctx.settings.stateDir, "vms", id),
    runDir: join(ctx.settings.runDir, "vms", id.slice(0, 20)),
    uid: 0,
    memoryMib: 0,
    vcpus: 0,
    guest: ctx.assets.guest,
    bundle: ctx.assets.bundle,
    disks: [],
  };
  // Whose it was nobody knows any more. The one without a VM first: only it knows of mounts, which a deletion would follow.
  const backends = [...ctx.backends.all()].sort(
    (a, b) => Number(b.capabilities.hostKernel) - Number(a.capabilities.hostKernel),
  );
  for (const cgroup of names.length > 0 ? names : [vmCgroup("", id)]) {
    try {
      for (const backend of backends) await backend.destroy({ ...spec, cgroup }, DESTROY_MS);
    } catch (err) {
      ctx.logger.error("cannot sweep a VM's folder; tried again at the next start", { err, id });
    }
  }
}

async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (err) {
    if (errno(err) === "ENOENT") return [];
    throw err;
  }
}
