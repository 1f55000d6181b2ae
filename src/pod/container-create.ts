import { rm } from "node:fs/promises";
import { join } from "node:path";
import { CreateContainerRequest, Device, PidNamespace, UserSpec } from "../gen/agent/v1/agent.js";
import type { Mount, Spec } from "../gen/oci/v1/spec.js";
import { PodvmError } from "../host/errors.js";
import { newId } from "../host/ids.js";
import { UndoStack } from "../host/undo.js";
import type { Image } from "../image/image.js";
import { type HostVolumes, hostVolumes } from "../volume/host-binds.js";
import { imageSerial } from "../volume/image.js";
import type { PreparedVolumes } from "../volume/pod-volumes.js";
import { withinHost } from "./capabilities.js";
import { Container } from "./container.js";
import { checkUserNamespace, securityFields } from "./container-security.js";
import type { PodContext } from "./context.js";
import { buildSpec } from "./oci-spec.js";
import { positionPath, startPump } from "./output.js";
import type { Pod } from "./pod.js";
import { isOnHost, readyForPropagation } from "./sandbox-to-host.js";
import { seccompOf } from "./seccomp.js";
import { signalNumber } from "./signals.js";
import {
  type ContainerConfig,
  type ContainerDocument,
  DOCUMENT_VERSION,
  nowNs,
  type PidMode,
  type SecurityConfig,
} from "./types.js";

const ATTACH_MS = 30_000;
const CREATE_MS = 120_000;
const UNDO_MS = 30_000;

const PID_NAMESPACES: Record<PidMode, PidNamespace> = {
  pod: PidNamespace.PID_NAMESPACE_POD,
  container: PidNamespace.PID_NAMESPACE_CONTAINER,
  node: PidNamespace.PID_NAMESPACE_NODE,
  target: PidNamespace.PID_NAMESPACE_TARGET,
};

/**
 * CRI CreateContainer: the image's device in the VM, root file system and process made, not yet running. After a rejection nothing is left.
 */
export async function createContainer(ctx: PodContext, podId: string, config: ContainerConfig): Promise<Container> {
  const pod = ctx.registry.pod(podId);
  if (!pod.ready || !pod.vm) throw pod.notReady();
  await readyForPropagation(ctx, pod, config);
  const onHost = isOnHost(ctx, pod);
  if (onHost) checkOnHost(pod, config);
  const image = ctx.images.find(config.image);
  if (!image) throw new PodvmError("not_found", `image ${config.image} is not here: pull it first`);
  const container = new Container(newDocument(pod, config, image));
  checkUserNamespace(pod.document.config, config);
  const seccomp = await seccompOf(config.security, ctx.settings.unsetSeccompProfile);
  const security = await securityFields(config);
  const spec = (volumes: Mount[]) => buildSpec(pod.document.config, config, image.config, seccomp, volumes);
  spec([]); // may reject: nothing is made yet
  if (config.security.pidMode === "target") ctx.registry.container(config.security.pidTarget);
  // Its spec was made for where the pod was before the awaits above.
  if (isOnHost(ctx, pod) !== onHost) throw new PodvmError("unavailable", `pod ${pod.id} has just moved: try again`);
  ctx.registry.addContainer(container); // reserves the name
  return ctx.locks.run(`container:${container.id}`, async () => {
    const undo = new UndoStack(ctx.logger.child({ pod: pod.id, container: container.id }));
    try {
      undo.add("container document", () => ctx.containerDocuments.delete(container.id));
      await ctx.containerDocuments.put(container.document);
      const request = CreateContainerRequest.fromPartial({
        containerId: container.id,
        image: { serial: container.document.imageSerial },
        user: userOf(config.security, image),
        stdin: config.stdin,
        stdinOnce: config.stdinOnce,
        pidNamespace: PID_NAMESPACES[config.security.pidMode],
        pidTargetContainerId: config.security.pidTarget,
        ...security,
      });
      const volumes = await prepareVolumes(pod, container, onHost, undo);
      request.spec = spec(volumes.mounts);
      if (onHost) await adaptToHost(request.spec, config, volumes.rootfsPropagation ?? "");
      request.devices = volumes.devices.map((device) => Device.fromPartial(device));
      await makeInGuest(ctx, pod, container, request, image, undo);
      return container;
    } catch (err) {
      const failures = await undo.rollback();
      // What could not be undone inside goes with the VM; after a restart recovery compares with the agent's list.
      if (failures.length > 0) ctx.logger.warn("a container could not be undone wholly", { container: container.id });
      ctx.registry.deleteContainer(container);
      throw err;
    }
  });
}

/** What the host's kernel asks of a specification that was made for a guest's. */
async function adaptToHost({ process, linux }: Spec, config: ContainerConfig, propagation: string): Promise<void> {
  if (propagation && linux) linux.rootfsPropagation = propagation;
  const sets = process?.capabilities;
  if (!sets) return;
  for (const name of ["bounding", "effective", "permitted", "inheritable", "ambient"] as const) {
    sets[name] = await withinHost(config.security, sets[name]);
  }
}

/** On the host's kernel its files and devices are given as they are; image volumes come the same way everywhere. */
async function prepareVolumes(
  pod: Pod,
  container: Container,
  onHost: boolean,
  undo: UndoStack,
): Promise<PreparedVolumes & Partial<HostVolumes>> {
  const { volumes } = pod;
  if (!volumes) throw pod.notReady();
  undo.add("volumes of the container alone", async () => {
    if (pod.ready) await volumes.release(container.id);
  });
  const { mounts, devices } = container.document.config;
  if (!onHost) return volumes.prepare(container.id, mounts, devices);
  const images = await volumes.prepare(
    container.id,
    mounts.filter((mount) => mount.image),
    [],
  );
  const host = await hostVolumes(mounts, devices);
  return { ...host, mounts: [...images.mounts, ...host.mounts] };
}

async function makeInGuest(
  ctx: PodContext,
  pod: Pod,
  container: Container,
  request: CreateContainerRequest,
  image: Image,
  undo: UndoStack,
): Promise<void> {
  const { document } = container;
  const device = await ctx.images.device(image.id);
  // Attached once per image and left until the VM ends: a restarted container finds it there, and there is nothing to race with.
  await vmOf(pod).attachBlock({ serial: document.imageSerial, source: { kind: "image", image: device } }, ATTACH_MS);
  undo.add("container in the guest", async () => {
    if (!pod.ready) return; // gone with its VM
    await pod.call((agent, deadlineMs) => agent.removeContainer(container.id, { deadlineMs }), UNDO_MS);
  });
  const made = await pod.call((agent, deadlineMs) => agent.createContainer(request, { deadlineMs }), CREATE_MS);
  undo.add("output pump", async () => {
    await container.pump?.close();
    container.pump = undefined;
    await rm(positionPath(ctx, container.id), { force: true });
  });
  await startPump(ctx, pod, container);
  if (!pod.ready) throw pod.notReady(); // stopped meanwhile: StopPodSandbox has not seen this one
  document.user = { uid: made.uid, gid: made.gid, groups: made.groups };
  document.state = "created";
  await ctx.containerDocuments.put(document);
  ctx.events.emit("created", pod, container);
}

/** A pid namespace that means the guest's in a VM would here be the node's: only for a pod that has asked for that. */
function checkOnHost(pod: Pod, config: ContainerConfig): void {
  if (config.security.pidMode === "node" && !pod.document.vm.hostNamespaces?.includes("pid")) {
    throw new PodvmError(
      "failed_precondition",
      "security_context.namespace_options.pid: NODE is the host's here, and the pod sandbox has not asked for it (hostPID)",
    );
  }
}

function vmOf(pod: Pod) {
  if (!pod.vm) throw pod.notReady();
  return pod.vm;
}

function newDocument(pod: Pod, config: ContainerConfig, image: Image): ContainerDocument {
  const logDirectory = pod.document.config.logDirectory;
  return {
    version: DOCUMENT_VERSION,
    id: newId(),
    podId: pod.id,
    config,
    imageId: image.id,
    imageSerial: imageSerial(image.id),
    state: "creating",
    logPath: logDirectory && config.logPath ? join(logDirectory, config.logPath) : "",
    stopSignal: signalNumber(config.stopSignal || image.config.stopSignal),
    starting: false,
    createdNs: nowNs(),
    startedNs: "0",
    finishedNs: "0",
    exitCode: 0,
    reason: "",
    message: "",
    logComplete: false,
  };
}

function userOf(security: SecurityConfig, image: Image): UserSpec {
  const user: UserSpec = {
    user: security.runAsUsername || image.config.user,
    uid: security.runAsUser,
    gid: security.runAsGroup,
    supplementalGroups: security.supplementalGroups,
    strictGroups: security.strictGroups,
  };
  return UserSpec.fromPartial(user);
}
