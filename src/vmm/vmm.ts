/**
 * What a virtual machine monitor must do for a pod. One backend per folder below this one; nothing outside such a folder
 * asks which backend it is, only for its capabilities.
 *
 * A VM's identity is its VmSpec, a plain JSON document that the pod room writes to disk BEFORE `start`: `adopt` and `destroy` need
 * nothing else, so a server that died at any instruction can find the VM again or remove every trace of it.
 */
import type { ImageDevice } from "../image/image.js";

export interface VmSpec {
  /** The pod sandbox id: 64 hexadecimal digits. */
  id: string;
  /** Folder owned by this VM on the file system of the images and disks (hard links into it must work). The backend makes and removes it. */
  dir: string;
  /** Folder for sockets and the pid file, on a tmpfs. The backend makes and removes it. */
  runDir: string;
  /** Unprivileged user and group of this VM alone. */
  uid: number;
  /** Name of the cgroup below each hierarchy, from kubelet's cgroup_parent: "/kubepods/burstable/pod…/podvm-ID". Made and removed by the backend. */
  cgroup: string;
  /** Path of the pod's network namespace; the tap in it is the VM's NIC. Absent: a VM without network, or on the host's kernel the host's own. */
  network?: { netns: string; tap: string; mac: string; mtu: number };
  /** What the VM begins with. */
  memoryMib: number;
  vcpus: number;
  /** What `resize` can give it. Absent in documents of versions that had no resize. */
  maxMemoryMib?: number;
  maxVcpus?: number;
  /** Guest image folder at the time of creation (an upgrade must not change it under a VM). */
  guest: string;
  /** Runtime bundle folder at the time of creation. */
  bundle: string;
  /** Attached before the guest boots, in this order. */
  disks: DiskSpec[];
  /** Namespaces of the host that the pod shares; only a backend with `hostKernel` can. */
  hostNamespaces?: HostNamespace[];
}

export type HostNamespace = "network" | "pid" | "ipc";

export interface DiskSpec {
  /** What the guest finds it by: at most 20 characters of [a-z0-9-]. */
  serial: string;
  /** Read-only is enforced by the VMM and by the file's mode. A raw disk's file must be in `VmSpec.dir` or is hard-linked into it. */
  source:
    | { kind: "image"; image: ImageDevice }
    | { kind: "raw"; path: string; readOnly: boolean }
    /** A block device of the host; the VMM gets a node of its own for it. That nobody else uses it is the caller's to see to. */
    | { kind: "device"; major: number; minor: number; readOnly: boolean };
}

export interface VmmCapabilities {
  /** Disks can be attached to a running VM. */
  hotplugBlock: boolean;
  /** Memory and CPUs can be changed on a running VM. */
  resize: boolean;
  /** A paused VM's state can be saved and another VM started from it. */
  snapshot: boolean;
  pause: boolean;
  /** No VM: pods run on the host's kernel. They have no tap and no writable disk, and files of the host are bound where they are. */
  hostKernel: boolean;
}

export interface VmmStatus {
  usable: boolean;
  version: string;
  /** "kvm" or "tcg" for QEMU. */
  accelerator: string;
  /** Why it is not usable, or why only with the slower accelerator. */
  reason?: string;
  /** Isolation that had to be given up on this machine; shown by `podvm check` and logged at start. */
  relaxations: string[];
}

export interface Vmm {
  readonly name: string;
  readonly capabilities: VmmCapabilities;
  /** Looks at the machine; cached after the first call. */
  status(): Promise<VmmStatus>;
  /**
   * Starts a VM cold. Resolves when the VMM runs and its control channel answers; the guest may still be booting (the link tells when
   * it is up). After a rejection nothing is left, as after `destroy`.
   */
  start(spec: VmSpec, deadlineMs: number): Promise<Vm>;
  /** The running VM of this spec, or undefined where there is none (never started, or dead). */
  adopt(spec: VmSpec, deadlineMs: number): Promise<Vm | undefined>;
  /** Ends the VM if it runs and removes its process, cgroup, mounts, folders. Idempotent; rejects when something would not go. */
  destroy(spec: VmSpec, deadlineMs: number): Promise<void>;
}

export interface VmExit {
  /** "killed", "guest shutdown", "guest panic", "VMM died" … */
  reason: string;
}

/** How to reach the agent: a unix socket, and what to say on it before the hello preamble. */
export interface LinkAddress {
  path: string;
  /** Firecracker's hybrid vsock asks for "CONNECT port\n". */
  connectPort?: number;
}

export interface VmSize {
  memoryMib: number;
  vcpus: number;
}

export interface HostCost {
  /** Bytes; proportional set size of the VMM and its helpers. */
  pss: number;
  rss: number;
  cpuNs: bigint;
}

export interface Vm {
  readonly spec: VmSpec;
  readonly pid: number;
  readonly link: LinkAddress;
  /** Resolves when the VMM is gone, for whatever reason. Never rejects. */
  readonly exited: Promise<VmExit>;
  /** Idempotent by serial. The device may appear in the guest a little later (the agent waits for it). */
  attachBlock(disk: DiskSpec, deadlineMs: number): Promise<void>;
  detachBlock(serial: string, deadlineMs: number): Promise<void>;
  /**
   * The second byte stream into the guest, for the FUSE relay: made on the first call, then the same. Answers the unix socket on which the
   * VMM listens, one connection at a time, also again after one has ended.
   */
  openSharePort(deadlineMs: number): Promise<string>;
  /** Throws resource_exhausted or failed_precondition where the VM can never have this size. Changes nothing. */
  checkSize(size: VmSize): void;
  /**
   * Idempotent. Resolves when the memory is the guest's (or no longer), CPUs that the guest has taken offline are gone, and those that come are
   * there for it to bring online (agent.proto: Resize). Rejects with deadline_exceeded where the guest does not follow; repeated, it goes on.
   */
  resize(size: VmSize, deadlineMs: number): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  hostCost(): Promise<HostCost>;
  /** Lets go of the control channel without touching the VM (the server is stopping). */
  release(): void;
}
