import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type { ConfigureSandboxRequest } from "../gen/agent/v1/agent.js";
import { PodvmError } from "../host/errors.js";
import { newId } from "../host/ids.js";
import { UndoStack } from "../host/undo.js";
import type { PodNetwork } from "../network/network.js";
import type { Vmm, VmSpec } from "../vmm/vmm.js";
import type { PodContext } from "./context.js";
import { runsOnHost } from "./host-policy.js";
import { podHostname } from "./hostname.js";
import { Pod } from "./pod.js";
import { roomFor, sizeOf } from "./sizing.js";
import { DOCUMENT_VERSION, nowNs, type PodConfig, type PodDocument, type UserNamespace } from "./types.js";
import { vmCgroup } from "./vm-cgroup.js";

const NETWORK_MS = 60_000;
const UNDO_MS = 30_000;
export const SCRATCH_SERIAL = "scratch";

/**
 * Makes a pod sandbox: document, network, disk, VM, and the agent configured. Resolves when all of it is up. After a rejection nothing is
 * left; where an undo failed the sandbox stays, stopped, so that StopPodSandbox and RemovePodSandbox can finish.
 */
export async function runSandbox(ctx: PodContext, config: PodConfig): Promise<Pod> {
  const vmm = backendFor(ctx, config);
  const uid = ctx.uids.take();
  const pod = new Pod(newDocument(ctx, config, vmm, uid));
  try {
    ctx.registry.addPod(pod); // reserves the name
  } catch (err) {
    ctx.uids.release(uid);
    throw err;
  }
  return ctx.locks.run(`pod:${pod.id}`, async () => {
    const logger = ctx.logger.child({ pod: pod.id, name: `${config.namespace}/${config.name}` });
    const undo = new UndoStack(logger);
    try {
      undo.add("pod document", () => ctx.podDocuments.delete(pod.id));
      await ctx.podDocuments.put(pod.document);
      if (vmm.capabilities.hostKernel) logger.info("the pod runs without a virtual machine");
      await bringUp(ctx, pod, vmm, undo);
      ctx.events.emit("created", pod);
      ctx.events.emit("started", pod);
      return pod;
    } catch (cause) {
      // A VM that died tells more than the broken link which it left behind.
      const died = pod.document.message;
      const err = died ? new PodvmError("unavailable", died, { cause }) : cause;
      await giveUp(ctx, pod, undo, err);
      throw err;
    }
  });
}

/** Without a VM only where the configuration allows it; a refusal is an event that whoever runs the node wants to see. */
function backendFor(ctx: PodContext, config: PodConfig): Vmm {
  const named = ctx.backends.forHandler(config.runtimeHandler);
  try {
    return runsOnHost(config, ctx.settings.hostPods) ? ctx.backends.onHost() : named;
  } catch (err) {
    ctx.logger.warn("refused a pod that asks for the host", { pod: `${config.namespace}/${config.name}`, err });
    throw err;
  }
}

function newDocument(ctx: PodContext, config: PodConfig, vmm: Vmm, uid: number): PodDocument {
  const id = newId();
  const { stateDir, runDir, sizing } = ctx.settings;
  const size = sizeOf(config, sizing);
  const vm: VmSpec = {
    id,
    dir: join(stateDir, "vms", id),
    runDir: join(runDir, "vms", id.slice(0, 20)), // a unix socket's path has 107 bytes
    uid,
    cgroup: vmCgroup(config.cgroupParent, id),
    ...size,
    ...(vmm.capabilities.resize && roomFor(size, sizing)),
    guest: ctx.assets.guest,
    bundle: ctx.assets.bundle,
    disks: [],
    ...(vmm.capabilities.hostKernel && { hostNamespaces: config.hostNamespaces ?? [] }),
  };
  return {
    version: DOCUMENT_VERSION,
    id,
    config,
    phase: "creating",
    createdNs: nowNs(),
    vmm: vmm.name,
    vm,
    holdsResources: true,
    message: "",
  };
}

async function bringUp(ctx: PodContext, pod: Pod, vmm: Vmm, undo: UndoStack): Promise<void> {
  const { document } = pod;
  const { vm: spec } = document;

  undo.add("VM", () => vmm.destroy(spec, UNDO_MS));
  undo.add("network", () => ctx.network.teardown(pod.id, UNDO_MS));
  const { hostKernel } = vmm.capabilities;
  const network = spec.hostNamespaces?.includes("network") ? undefined : setUpNetwork(ctx, document, hostKernel);
  const scratch = hostKernel ? undefined : ctx.createScratch(spec.dir, spec.uid);
  // Both must have ended, also when one fails: an undo beside work that goes on would leave its fruits behind.
  await Promise.allSettled([network, scratch]);
  if (network) {
    document.network = await network;
    spec.network = vmNetwork(document.network);
  }
  const path = await scratch;
  if (path) spec.disks = [{ serial: SCRATCH_SERIAL, source: { kind: "raw", path, readOnly: false } }];
  await ctx.podDocuments.put(document);

  await startAgent(ctx, pod, vmm);
  document.phase = "ready";
  await ctx.podDocuments.put(document);
}

function setUpNetwork(ctx: PodContext, { id, config, vm }: PodDocument, withoutVm: boolean): Promise<PodNetwork> {
  return ctx.network.setup(
    {
      podId: id,
      podNamespace: config.namespace,
      podName: config.name,
      podUid: config.uid,
      portMappings: config.portMappings,
      uid: vm.uid,
      withoutVm,
    },
    NETWORK_MS,
  );
}

function vmNetwork(network: PodNetwork): NonNullable<VmSpec["network"]> {
  const primary = network.interfaces[0];
  if (!primary)
    throw new PodvmError("internal", "the CNI plugins gave the pod no interface; look into the CNI configuration");
  return { netns: network.netns, tap: network.tap, mac: primary.mac, mtu: primary.mtu };
}

/** Starts the VM, or what stands for it, and makes its agent this pod's. */
export async function startAgent(ctx: PodContext, pod: Pod, vmm: Vmm): Promise<void> {
  const { document } = pod;
  const { vm: spec } = document;
  pod.vm = await vmm.start(spec, ctx.settings.startTimeoutMs);
  ctx.watchVm(pod, pod.vm);
  if (!pod.session) throw new PodvmError("internal", "no session with the agent was opened");
  const agent = await pod.session.agent(ctx.settings.startTimeoutMs);
  await agent.configureSandbox(sandboxRequest(document));
  if (document.message) throw new PodvmError("unavailable", document.message); // the VM died meanwhile
}

async function giveUp(ctx: PodContext, pod: Pod, undo: UndoStack, err: unknown): Promise<void> {
  await pod.session?.close();
  pod.session = undefined;
  pod.vm?.release();
  pod.vm = undefined;
  const failures = await undo.rollback();
  if (failures.length === 0) {
    ctx.registry.deletePod(pod);
    ctx.uids.release(pod.document.vm.uid);
    return;
  }
  pod.document.phase = "stopped";
  pod.document.message = `RunPodSandbox failed (${PodvmError.from(err).message}) and not all of it could be undone (${failures[0]?.message})`;
  await ctx.podDocuments.put(pod.document).catch((cause) => {
    ctx.logger.error("cannot write the document of a pod that could not be undone", { err: cause, pod: pod.id });
  });
}

function sandboxRequest(document: PodDocument): ConfigureSandboxRequest {
  const { config, network, vm } = document;
  const hostname = podHostname(config);
  return {
    podId: document.id,
    hostname,
    dns: config.dns ?? network?.dns,
    network: network && { interfaces: network.interfaces.slice(0, 1), routes: guestRoutes(network) },
    sysctls: config.sysctls,
    realtimeNs: BigInt(Date.now()) * 1_000_000n,
    entropy: randomBytes(64),
    scratch: vm.disks.some((disk) => disk.serial === SCRATCH_SERIAL) ? { serial: SCRATCH_SERIAL } : undefined,
    shmSize: 0n,
    sharedPidNamespace: config.pidMode === "pod",
    hosts: (network?.ips ?? []).map((ip) => `${ip} ${hostname}`),
    userNamespace: config.userNamespace && mappings(config.userNamespace),
  };
}

function mappings({ uidBase, gidBase, size }: UserNamespace) {
  return {
    uids: { containerId: 0, hostId: uidBase, size },
    gids: { containerId: 0, hostId: gidBase, size },
  };
}

/** The VM has one NIC: routes by other interfaces of the namespace have no way out of it. */
function guestRoutes(network: PodNetwork) {
  const primary = network.interfaces[0]?.name;
  return network.routes.filter((route) => route.interface === primary).map((route) => ({ ...route, metric: 0 }));
}
