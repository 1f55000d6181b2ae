import {
  type ContainerMetadata,
  ContainerState,
  ContainerStatus,
  Container as CriContainer,
  type DeepPartial,
  type Mount,
  MountPropagation,
  NamespaceMode,
  type PodSandbox,
  type PodSandboxMetadata,
  PodSandboxState,
  PodSandboxStatus,
  Signal,
} from "../gen/runtime/v1/api.js";
import type { ImageStore } from "../image/image.js";
import type { Container } from "../pod/container.js";
import type { Pod } from "../pod/pod.js";
import { signalName } from "../pod/signals.js";
import type { ContainerState as DomainState, MountConfig, PidMode, Propagation } from "../pod/types.js";
import { renderResources } from "./parse-resources.js";

/** From the domain's documents to CRI's messages. */

const STATES: Record<DomainState, ContainerState> = {
  // CRI has no state for one in the making; it is not listed either (see visible).
  creating: ContainerState.CONTAINER_UNKNOWN,
  created: ContainerState.CONTAINER_CREATED,
  running: ContainerState.CONTAINER_RUNNING,
  exited: ContainerState.CONTAINER_EXITED,
};

const PID_MODES: Record<PidMode, NamespaceMode> = {
  pod: NamespaceMode.POD,
  container: NamespaceMode.CONTAINER,
  node: NamespaceMode.NODE,
  target: NamespaceMode.TARGET,
};

export function podState(pod: Pod): PodSandboxState {
  return pod.ready ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
}

export function podMetadata(pod: Pod): PodSandboxMetadata {
  const { name, uid, namespace, attempt } = pod.document.config;
  return { name, uid, namespace, attempt };
}

export function renderPod(pod: Pod): PodSandbox {
  const { config, createdNs } = pod.document;
  return {
    id: pod.id,
    metadata: podMetadata(pod),
    state: podState(pod),
    createdAt: BigInt(createdNs),
    labels: config.labels,
    annotations: config.annotations,
    runtimeHandler: config.runtimeHandler,
  };
}

export function renderPodStatus(pod: Pod): PodSandboxStatus {
  const [ip = "", ...others] = pod.ready ? (pod.document.network?.ips ?? []) : [];
  return PodSandboxStatus.fromPartial({
    ...renderPod(pod),
    network: { ip, additionalIps: others.map((address) => ({ ip: address })) },
    linux: {
      namespaces: {
        options: {
          network: pod.document.vm.hostNamespaces?.includes("network") ? NamespaceMode.NODE : NamespaceMode.POD,
          ipc: pod.document.vm.hostNamespaces?.includes("ipc") ? NamespaceMode.NODE : NamespaceMode.POD,
          pid: PID_MODES[pod.document.config.pidMode],
        },
      },
    },
  });
}

export function containerState(container: Container): ContainerState {
  return STATES[container.document.state];
}

export function containerMetadata(container: Container): ContainerMetadata {
  const { name, attempt } = container.document.config;
  return { name, attempt };
}

export function renderContainer(container: Container): CriContainer {
  const { config, podId, imageId, createdNs } = container.document;
  return CriContainer.fromPartial({
    id: container.id,
    podSandboxId: podId,
    metadata: containerMetadata(container),
    image: { image: config.image, userSpecifiedImage: config.userSpecifiedImage },
    imageRef: imageId,
    imageId,
    state: containerState(container),
    createdAt: BigInt(createdNs),
    labels: config.labels,
    annotations: config.annotations,
  });
}

export function renderContainerStatus(container: Container, images: ImageStore): ContainerStatus {
  const { config, createdNs, startedNs, finishedNs, exitCode, reason, message, imageId, logPath, user } =
    container.document;
  return ContainerStatus.fromPartial({
    id: container.id,
    metadata: containerMetadata(container),
    state: containerState(container),
    createdAt: BigInt(createdNs),
    startedAt: BigInt(startedNs),
    finishedAt: BigInt(finishedNs),
    exitCode,
    image: {
      image: images.find(imageId)?.repoTags[0] ?? config.image,
      userSpecifiedImage: config.userSpecifiedImage,
    },
    imageRef: imageId,
    imageId,
    reason,
    message,
    labels: config.labels,
    annotations: config.annotations,
    logPath,
    mounts: config.mounts.map(renderMount),
    resources: { linux: renderResources(config.resources) },
    user: user && {
      linux: { uid: BigInt(user.uid), gid: BigInt(user.gid), supplementalGroups: user.groups.map(BigInt) },
    },
    stopSignal: renderSignal(container.document.stopSignal),
  });
}

const PROPAGATIONS: Record<Propagation, MountPropagation> = {
  private: MountPropagation.PROPAGATION_PRIVATE,
  hostToContainer: MountPropagation.PROPAGATION_HOST_TO_CONTAINER,
  bidirectional: MountPropagation.PROPAGATION_BIDIRECTIONAL,
};

/** As it was asked for. */
function renderMount(mount: MountConfig): DeepPartial<Mount> {
  return {
    containerPath: mount.containerPath,
    hostPath: mount.hostPath,
    readonly: mount.readonly,
    recursiveReadOnly: mount.recursiveReadonly,
    propagation: PROPAGATIONS[mount.propagation],
    mountOptions: mount.options,
    ...(mount.image && { image: { image: mount.image.reference }, imageSubPath: mount.image.subPath }),
  };
}

/** What StopContainer sends: the container's own, else its image's, else SIGTERM. */
function renderSignal(number: number): Signal {
  return Signal[`SIGNAL_${signalName(number)}` as keyof typeof Signal] ?? Signal.SIGNAL_RUNTIME_DEFAULT;
}
