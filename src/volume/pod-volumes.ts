/**
 * The volumes of one pod, from its first mount to its end. Each is written into the pod's document before it is made. Termination logs go with
 * their container, all others with the pod: a container that kubelet starts anew finds its emptyDir as it was.
 */
import { randomBytes } from "node:crypto";
import type { Agent } from "../agent/client.js";
import type { DeepPartial, Device, PutVolumeRequest } from "../gen/agent/v1/agent.js";
import type { Mount as OciMount } from "../gen/oci/v1/spec.js";
import { sleep } from "../host/deadline.js";
import { hasCode, messageOf, PodvmError } from "../host/errors.js";
import { KeyedLock } from "../host/keyed-lock.js";
import type { Logger } from "../host/log.js";
import type { ImageStore } from "../image/image.js";
import type { DeviceConfig, MountConfig } from "../pod/types.js";
import type { DiskSpec, VmSpec } from "../vmm/vmm.js";
import { classifyDevice } from "./block.js";
import { classifyMount } from "./classify.js";
import { Follower } from "./follow.js";
import { readGeneration } from "./generation.js";
import { imageVolume } from "./image.js";
import { idMappings, mountOptions } from "./mount-options.js";
import { type MountInfo, readMountInfo } from "./mountinfo.js";
import type { Shares } from "./share.js";
import { forwardSocket } from "./socket.js";
import { MAX_LOG_BYTES, writeTerminationLog } from "./termination-log.js";
import type { VolumeChoice, VolumeDocument, VolumeSpec } from "./types.js";

const MAX_VOLUMES = 2048;
const CALL_MS = 30_000;
const ATTACH_MS = 30_000;
const SHARE_MS = 60_000;
const SYNC_MS = 120_000;
const PULL_MS = 10_000;
const RETRY_MS = 100;

export interface PodVolumesOptions {
  podUid: string;
  vm: VmSpec;
  /** Of the pod's document: changed here, written by `save`. */
  documents: VolumeDocument[];
  /** Makes the pod's document durable. */
  save(): Promise<void>;
  /** The connected agent, for as long as the VM runs. */
  agent(deadlineMs: number): Promise<Agent>;
  /** As Pod.call: made again on the next connection where one breaks. */
  call<T>(work: (agent: Agent) => Promise<T>, deadlineMs: number): Promise<T>;
  attach(disk: DiskSpec, deadlineMs: number): Promise<void>;
  /** Whether the pod has this container. */
  hasContainer(id: string): boolean;
  images: Pick<ImageStore, "find" | "device">;
  shares: Shares | undefined;
  /** Host sockets that may be forwarded. */
  sockets: readonly string[];
  logger: Logger;
  /** Aborted when the VM is no longer this server's to talk to. */
  signal: AbortSignal;
}

/** What CreateContainer tells the agent. */
export interface PreparedVolumes {
  mounts: OciMount[];
  devices: DeepPartial<Device>[];
}

export class PodVolumes {
  readonly #o: PodVolumesOptions;
  readonly #locks = new KeyedLock();
  /** Ids of those that are made for certain; a server that starts anew makes them again, which changes nothing. */
  readonly #made = new Set<string>();
  readonly #followed = new Set<string>();
  readonly #forwarded = new Set<string>();

  constructor(options: PodVolumesOptions) {
    this.#o = options;
  }

  /** Makes what the container's mounts and devices need. After a rejection no volume is left half-made. */
  async prepare(
    containerId: string,
    mounts: readonly MountConfig[],
    devices: readonly DeviceConfig[],
  ): Promise<PreparedVolumes> {
    if (mounts.length === 0 && devices.length === 0) return { mounts: [], devices: [] };
    const table = await readMountInfo();
    // First all of them are looked at: what cannot be given is told before anything is made.
    const choices = await Promise.all(mounts.map((mount) => this.#choose(mount, table)));
    const nodes = await Promise.all(devices.map((device) => classifyDevice(device, table)));
    const prepared: PreparedVolumes = { mounts: [], devices: [] };
    const blocks = nodes.flatMap((node) => (node.kind === "block" ? [node] : []));
    const ids = await allDone([...choices, ...blocks].map(({ key, spec }) => this.#ensure(key, spec, containerId)));
    for (const [i, choice] of choices.entries()) {
      const id = ids[i];
      const mount = mounts[i] as MountConfig;
      prepared.mounts.push({
        destination: mount.containerPath,
        type: "bind",
        source: `podvm:volume/${id}${choice.subPath && `/${choice.subPath}`}`,
        options: mountOptions(mount, choice.spec.kind === "share"),
        ...idMappings(mount),
      });
    }
    for (const [i, node] of nodes.entries()) {
      const { containerPath: path, permissions } = devices[i] as DeviceConfig;
      if (node.kind === "guest") prepared.devices.push({ path, permissions, guest: node.path });
      else prepared.devices.push({ path, permissions, block: { serial: node.spec.serial } });
    }
    return prepared;
  }

  /** After the server's start: shares, sources and sockets are attended again. */
  async resume(): Promise<void> {
    const { documents, shares, vm, logger } = this.#o;
    for (const { id, container } of [...documents]) {
      if (container && !this.#o.hasContainer(container)) await this.#drop(id);
    }
    const entries = documents.flatMap(({ spec }) => (spec.kind === "share" ? [spec.entry] : []));
    if (entries.length > 0 && shares) {
      await shares
        .restore(vm, entries, SHARE_MS)
        .catch((err) => logger.error("cannot restore the pod's share", { err }));
    }
    for (const document of documents) {
      // One that never got its first generation belongs to a container that was not made.
      if (document.generation !== undefined || document.spec.kind === "socket") this.#attend(document);
    }
  }

  /** The termination log of a container that has exited, into kubelet's file. Never rejects: an exit is reported in any case. */
  async collect(containerId: string): Promise<void> {
    for (const { id, spec, container } of this.#o.documents) {
      if (container !== containerId || spec.kind !== "log") continue;
      try {
        await writeTerminationLog(spec.source, await this.#pull(id));
      } catch (err) {
        this.#o.logger.warn("cannot fetch a container's termination log", { err, container: containerId });
      }
    }
  }

  /** Forgets what was the container's alone. To be called when the guest has removed it. */
  async release(containerId: string): Promise<void> {
    for (const { id, container } of [...this.#o.documents]) if (container === containerId) await this.#drop(id);
  }

  /** Not by `call`, which refuses when the pod is being stopped: its containers' logs are wanted then too. */
  async #pull(volumeId: string): Promise<Uint8Array> {
    const end = Date.now() + PULL_MS;
    for (;;) {
      try {
        const left = Math.max(end - Date.now(), 1);
        const agent = await this.#o.agent(left);
        return await agent.readVolume({ volumeId, maxBytes: MAX_LOG_BYTES }, { deadlineMs: left });
      } catch (err) {
        if (!hasCode(err, "unavailable") || Date.now() >= end) throw err;
        await sleep(RETRY_MS);
      }
    }
  }

  async #choose(mount: MountConfig, mounts: readonly MountInfo[]): Promise<VolumeChoice> {
    const { podUid, sockets, images, shares } = this.#o;
    if (mount.image) return imageVolume(mount.image, images);
    const choice = await classifyMount(mount, { podUid, mounts, sockets });
    if (choice.spec.kind === "share" && !shares) {
      throw new PodvmError(
        "unimplemented",
        `mount ${mount.containerPath}: ${mount.hostPath} is a live folder or file of the host, for which this server has no share`,
      );
    }
    return choice;
  }

  /** The volume's id; made where it is not there. */
  #ensure(key: string, spec: VolumeSpec, containerId: string): Promise<string> {
    return this.#locks.run(key, async () => {
      const { documents } = this.#o;
      const found = documents.find((document) => document.key === key);
      if (found && this.#made.has(found.id)) return found.id;
      const document = found ?? newDocument(key, spec);
      if (spec.kind === "log") document.container = containerId;
      if (!found) {
        if (documents.length >= MAX_VOLUMES) {
          throw new PodvmError("resource_exhausted", `the pod has ${MAX_VOLUMES} volumes already`);
        }
        documents.push(document);
      }
      try {
        await this.#o.save();
        await this.#make(document);
      } catch (err) {
        if (!found) await this.#drop(document.id);
        throw err;
      }
      this.#made.add(document.id);
      this.#attend(document);
      return document.id;
    });
  }

  async #make(document: VolumeDocument): Promise<void> {
    const { id, spec } = document;
    const put = (kind: DeepPartial<PutVolumeRequest>) =>
      this.#o.call((agent) => agent.putVolume({ volumeId: id, ...kind }, { deadlineMs: CALL_MS }), CALL_MS);
    switch (spec.kind) {
      case "synced":
        await put({ synced: { singleFile: spec.singleFile } });
        return this.#push(document, spec.source, spec.singleFile);
      case "log":
        await put({ synced: { singleFile: true } });
        return this.#push(document, spec.source, true);
      case "local":
        return put({ local: { ...spec, size: BigInt(spec.size) } });
      case "image":
        await this.#o.attach(
          { serial: spec.serial, source: { kind: "image", image: await this.#o.images.device(spec.imageId) } },
          ATTACH_MS,
        );
        return put({ image: { device: { serial: spec.serial } } });
      case "share":
        await this.#shares().add(this.#o.vm, spec.entry, SHARE_MS);
        return put({ share: { name: spec.entry.name } });
      case "socket":
        return put({ socket: { mode: spec.mode, uid: spec.uid, gid: spec.gid } });
      case "block": {
        const { serial, major, minor, readOnly } = spec;
        return this.#o.attach({ serial, source: { kind: "device", major, minor, readOnly } }, ATTACH_MS);
      }
    }
  }

  /** Reads the source, and pushes it where the guest has something else. */
  async #push(document: VolumeDocument, source: string, singleFile: boolean): Promise<void> {
    const { digest, entries } = await readGeneration(source, singleFile);
    if (digest === document.generation) return;
    await this.#o.call((agent) => agent.syncVolume(document.id, entries, { deadlineMs: SYNC_MS }), SYNC_MS);
    document.generation = digest;
    // Where this is not written, the same generation is pushed once more after a restart.
    await this.#o.save().catch((err) => this.#o.logger.warn("cannot record a volume's generation", { err }));
  }

  #attend({ ...document }: VolumeDocument): void {
    const { spec, id } = document;
    const { signal, logger } = this.#o;
    if (spec.kind === "synced" && spec.follow && !this.#followed.has(id)) {
      this.#followed.add(id);
      new Follower(
        spec.source,
        spec.singleFile,
        async () => {
          const present = this.#o.documents.find((one) => one.id === id);
          if (!present || signal.aborted) return;
          await this.#push(present, spec.source, spec.singleFile).catch((err) => {
            if (!signal.aborted)
              logger.warn("cannot bring a volume up to date; trying again", { err, source: spec.source });
            throw err;
          });
        },
        signal,
      );
    }
    if (spec.kind === "socket" && !this.#forwarded.has(id)) {
      this.#forwarded.add(id);
      void forwardSocket({ volumeId: id, path: spec.source, agent: (ms) => this.#o.agent(ms), signal, logger });
    }
  }

  /** Out of the guest and out of the document; what the guest would not let go ends with its VM. */
  async #drop(id: string): Promise<void> {
    const { documents, logger } = this.#o;
    const document = documents.find((one) => one.id === id);
    if (!document) return;
    documents.splice(documents.indexOf(document), 1);
    this.#made.delete(id);
    const { spec } = document;
    try {
      if (spec.kind !== "block") {
        await this.#o.call((agent) => agent.removeVolume(id, { deadlineMs: CALL_MS }), CALL_MS);
      }
      if (spec.kind === "share") await this.#o.shares?.remove(this.#o.vm, spec.entry.name, SHARE_MS);
    } catch (err) {
      const gone = hasCode(err, "failed_precondition") || hasCode(err, "cancelled");
      if (!gone)
        logger.warn("cannot remove a volume from the guest; it ends with its VM", {
          volume: id,
          error: messageOf(err),
        });
    }
    await this.#o.save().catch((err) => logger.warn("cannot record that a volume is gone", { err }));
  }

  #shares(): Shares {
    if (!this.#o.shares) throw new PodvmError("unimplemented", "this server has no share");
    return this.#o.shares;
  }
}

/** All have ended when this settles: none goes on behind a rejection. */
async function allDone<T>(work: Promise<T>[]): Promise<T[]> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

function newDocument(key: string, spec: VolumeSpec): VolumeDocument {
  return { id: `${spec.kind}-${randomBytes(8).toString("hex")}`, key, spec };
}
