import type { Assets } from "../host/assets.js";
import type { DocumentStore } from "../host/document-store.js";
import type { KeyedLock } from "../host/keyed-lock.js";
import type { Logger } from "../host/log.js";
import type { ImageStore } from "../image/image.js";
import type { Network } from "../network/network.js";
import type { Vm, Vmm } from "../vmm/vmm.js";
import type { Shares } from "../volume/share.js";
import type { PodEvents } from "./events.js";
import type { HostPolicy } from "./host-policy.js";
import type { Pod } from "./pod.js";
import type { PodRegistry } from "./registry.js";
import type { UnsetSeccomp } from "./seccomp.js";
import type { SizingConfig } from "./sizing.js";
import type { ContainerDocument, PodDocument } from "./types.js";
import type { UidPool } from "./uid-pool.js";

/** The VMM backends of this node. */
export interface Backends {
  /** By RuntimeClass handler; not_found, listing the handlers, where there is none such. */
  forHandler(handler: string): Vmm;
  /** By the backend's own name, as a document holds it. */
  byName(name: string): Vmm;
  all(): readonly Vmm[];
  /** The backend for pods without a VM. */
  onHost(): Vmm;
}

export interface PodSettings {
  stateDir: string;
  runDir: string;
  sizing: SizingConfig;
  scratchGib: number;
  startTimeoutMs: number;
  unsetSeccompProfile: UnsetSeccomp;
  /** Host sockets that may be mounted. */
  sockets: string[];
  hostPods: HostPolicy;
}

/** What every verb of the pod room works with; made once, in serve.ts. */
export interface PodContext {
  settings: PodSettings;
  assets: Assets;
  logger: Logger;
  registry: PodRegistry;
  events: PodEvents;
  podDocuments: DocumentStore<PodDocument>;
  containerDocuments: DocumentStore<ContainerDocument>;
  /**
   * Keys: "pod:ID" is held by run, stop, remove and the handling of a VM's death; "container:ID" by create, start, remove and the recording
   * of an exit. Never take a pod's lock while holding a container's.
   */
  locks: KeyedLock;
  uids: UidPool;
  backends: Backends;
  network: Network;
  images: ImageStore;
  /** The FUSE relay; undefined where there is none. */
  shares: Shares | undefined;
  /** Makes the pod's writable disk in the folder; answers its path. */
  createScratch(dir: string, uid: number): Promise<string>;
  /** Begins what watches a VM that runs: session with the agent, events, death (watch.ts). */
  watchVm(pod: Pod, vm: Vm): void;
}
