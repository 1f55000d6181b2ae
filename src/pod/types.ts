/**
 * The documents of the pod room, as they stand on disk. They are written before the side effect that they announce, so after
 * a crash at any instruction recovery (recovery.ts) can finish or undo.
 *
 * Pod sandbox:
 *
 *   RunPodSandbox       all of it is up          StopPodSandbox, or the VM died      RemovePodSandbox
 *   ────────────► creating ───────────────► ready ─────────────────────► stopped ──────────────────► (gone)
 *                    │ a step failed: undone                                ▲
 *                    ├──────────────────────────────────────► (gone)        │
 *                    └── the undo failed too: kept, for Stop and Remove ────┘
 *
 * Container:
 *
 *   CreateContainer            StartContainer        exit, kill, VM died          RemoveContainer
 *   ────────► creating ─► created ─────────► running ─────────────────► exited ─────────────────► (gone)
 *                            └────────────────── VM died ─────────────────▲
 */
import type { PodNetwork, PortMapping } from "../network/network.js";
import type { HostNamespace, VmSize, VmSpec } from "../vmm/vmm.js";
import type { VolumeDocument } from "../volume/types.js";

export const DOCUMENT_VERSION = 1;

/** Nanoseconds since the epoch as decimal digits: JSON has no 64-bit integers. */
export type Nanoseconds = string;

export function nowNs(): Nanoseconds {
  return `${BigInt(Date.now()) * 1_000_000n}`;
}

export type PidMode = "pod" | "container" | "node" | "target";

export interface Resources {
  cpuPeriod?: number;
  cpuQuota?: number;
  cpuShares?: number;
  memoryLimit?: number;
  memorySwapLimit?: number;
  oomScoreAdj?: number;
  cpusetCpus?: string;
  cpusetMems?: string;
  hugepages?: { pageSize: string; limit: number }[];
  unified?: Record<string, string>;
}

/** A pod's user namespace: `size` ids from 0 on are, outside of it, those of the guest from uidBase (gidBase) on. */
export interface UserNamespace {
  uidBase: number;
  gidBase: number;
  size: number;
}

export interface PodConfig {
  name: string;
  uid: string;
  namespace: string;
  attempt: number;
  hostname: string;
  /** Absolute folder, or "" where the containers of the pod write no logs. */
  logDirectory: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  runtimeHandler: string;
  dns?: { servers: string[]; searches: string[]; options: string[] };
  portMappings: PortMapping[];
  cgroupParent: string;
  sysctls: Record<string, string>;
  pidMode: PidMode;
  /** Absent: the pod's users are those of the guest. */
  userNamespace?: UserNamespace;
  /** Namespaces of the host that it asks for; absent: none. */
  hostNamespaces?: HostNamespace[];
  /** Sum of the containers' limits (CRI LinuxPodSandboxConfig.resources), where the client gave them. */
  resources?: Resources;
  overhead?: Resources;
}

export type PodPhase = "creating" | "ready" | "stopped";

export interface PodDocument {
  version: typeof DOCUMENT_VERSION;
  id: string;
  config: PodConfig;
  phase: PodPhase;
  createdNs: Nanoseconds;
  vmm: string;
  vm: VmSpec;
  /** What the VM is to have since the last UpdatePodSandboxResources; absent: what it began with. Written before it is applied. */
  size?: VmSize;
  network?: PodNetwork;
  /** True until VM, network and disks are known to be gone; only then may the document go. */
  holdsResources: boolean;
  /** Absent in documents of versions before volumes, and where the pod has none. */
  volumes?: VolumeDocument[];
  /** Why it is stopped, where nobody asked for it: "VMM died: …". */
  message: string;
}

export interface ContainerConfig {
  name: string;
  attempt: number;
  /** As the client wrote it. */
  image: string;
  userSpecifiedImage: string;
  command: string[];
  args: string[];
  workingDir: string;
  env: { key: string; value: string }[];
  labels: Record<string, string>;
  annotations: Record<string, string>;
  /** Relative to the pod's log directory, or "". */
  logPath: string;
  stdin: boolean;
  stdinOnce: boolean;
  tty: boolean;
  /** "" where the image's counts. */
  stopSignal: string;
  resources: Resources;
  security: SecurityConfig;
  mounts: MountConfig[];
  devices: DeviceConfig[];
}

export type Propagation = "private" | "hostToContainer" | "bidirectional";

/** A CRI Mount, checked. Exactly one of hostPath and image is set. */
export interface MountConfig {
  /** Absolute. */
  containerPath: string;
  /** Absolute, as the client wrote it; symbolic links are followed when the container is made. */
  hostPath: string;
  /** An image's content instead of a path of the host. */
  image?: { reference: string; subPath: string };
  readonly: boolean;
  recursiveReadonly: boolean;
  /** The pod's user namespace, where the files shall appear through it (an id-mapped mount). */
  idMapping?: UserNamespace;
  propagation: Propagation;
  /** Of noexec, nosuid, nodev. */
  options: string[];
}

/** A CRI Device, checked. */
export interface DeviceConfig {
  hostPath: string;
  containerPath: string;
  /** Of "rwm". */
  permissions: string;
}

export interface SecurityConfig {
  privileged: boolean;
  addCapabilities: string[];
  dropCapabilities: string[];
  addAmbientCapabilities: string[];
  runAsUser?: number;
  runAsGroup?: number;
  runAsUsername: string;
  supplementalGroups: number[];
  strictGroups: boolean;
  readonlyRootfs: boolean;
  noNewPrivileges: boolean;
  maskedPaths: string[];
  readonlyPaths: string[];
  pidMode: PidMode;
  pidTarget: string;
  /** What the client said of the container's: it must be its pod's. Absent: nothing. */
  userNamespace?: UserNamespace | "node";
  seccomp: SeccompChoice;
  apparmor: AppArmorChoice;
}

export type SeccompChoice =
  /** The client said nothing: the configuration decides. */
  | { type: "unset" }
  | { type: "unconfined" }
  | { type: "default" }
  /** Absolute path of a file of this node. */
  | { type: "localhost"; path: string };

export type AppArmorChoice =
  /** CRI: runtime/default is "equivalent to not specifying a profile". */
  | { type: "unconfined" }
  /** Name of a profile that is loaded on this node, without "localhost/". */
  | { type: "localhost"; profile: string };

export type ContainerState = "creating" | "created" | "running" | "exited";

export interface ContainerDocument {
  version: typeof DOCUMENT_VERSION;
  id: string;
  podId: string;
  config: ContainerConfig;
  imageId: string;
  /** Serial number of the image's block device in the pod's VM. */
  imageSerial: string;
  state: ContainerState;
  /** Absolute path, or "". */
  logPath: string;
  stopSignal: number;
  user?: { uid: number; gid: number; groups: number[] };
  /** Start was asked of the agent; whether it happened the agent knows. */
  starting: boolean;
  createdNs: Nanoseconds;
  startedNs: Nanoseconds;
  finishedNs: Nanoseconds;
  exitCode: number;
  /** CRI's words: Completed, Error, OOMKilled, ContainerStatusUnknown; ours: VmDied, StartError. */
  reason: string;
  message: string;
  /** All output is in the log file: nothing to resume after a restart. */
  logComplete: boolean;
}
