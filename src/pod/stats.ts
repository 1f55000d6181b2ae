import { availableParallelism } from "node:os";
import type { ContainerStats, GuestStats } from "../gen/agent/v1/agent.js";
import { messageOf, PodvmError } from "../host/errors.js";
import type { HostCost } from "../vmm/vmm.js";
import type { Container } from "./container.js";
import { guestTime } from "./container-exit.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";

/** One slow guest must not hold up a list: kubelet gives the whole of it some seconds. */
const GUEST_MS = 2_000;
/** Several clients that ask at the same time are answered from one reading. */
const FRESH_MS = 500;
/** A guest that does not answer is shown as it was, with the time of that, for so long; then it is left out. */
const STALE_MS = 60_000;
/** Rates over less time than this are noise. */
const MIN_WINDOW_NS = 500_000_000n;
const NS_PER_SECOND = 1_000_000_000n;

export interface ContainerReading {
  container: Container;
  stats: ContainerStats;
  /** When the guest took it, nanoseconds since the epoch; never in the future. */
  atNs: bigint;
  /** Nanoseconds of CPU per second, since the reading before. */
  nanoCores?: bigint;
}

/** What the pod as a whole uses: its guest's word, or where it has no VM what its cgroup on this host is charged. */
export interface PodUse {
  cpuNs: bigint;
  memoryUsage: bigint;
  memoryWorkingSet: bigint;
  /** Absent where nothing limits it. */
  memoryAvailable?: bigint;
  /** Absent where only the whole host's is known. */
  memoryRss?: bigint;
  pageFaults?: { all: bigint; major: bigint };
}

/** What a pod's guest says of itself. */
export interface PodReading {
  pod: Pod;
  /** False: what `guest` says of CPU, memory and pressure is the host's. */
  hasVm: boolean;
  use: PodUse;
  guest: GuestStats;
  atNs: bigint;
  nanoCores?: bigint;
  containers: ContainerReading[];
  /** True: the guest did not answer just now; this is what it said last. */
  stale: boolean;
}

interface Sample {
  reading?: PodReading;
  /** By the clock of `performance.now()`. */
  takenMs: number;
  running?: Promise<PodReading | undefined>;
}

/** Readings of the guests, with CPU rates from one to the next. Bounded: one reading is kept for each pod. */
export class StatsReader {
  private readonly samples = new WeakMap<Pod, Sample>();
  private readonly last = new WeakMap<Pod | Container, { timeNs: bigint; cpuNs: bigint; nanoCores?: bigint }>();

  constructor(private readonly ctx: PodContext) {}

  /**
   * Undefined where the pod is not ready, or where its guest has not answered for longer than a minute. Never rejects, and answers within some
   * two seconds whatever the guest does.
   */
  async read(pod: Pod): Promise<PodReading | undefined> {
    if (!pod.ready) return undefined;
    const sample = this.samples.get(pod) ?? { takenMs: Number.NEGATIVE_INFINITY };
    this.samples.set(pod, sample);
    if (sample.reading && performance.now() - sample.takenMs < FRESH_MS) return current(this.ctx, sample.reading);
    sample.running ??= this.ask(pod, sample).finally(() => {
      delete sample.running;
    });
    const reading = await sample.running;
    return reading && current(this.ctx, reading);
  }

  async readAll(pods: readonly Pod[]): Promise<PodReading[]> {
    const readings = await Promise.all(pods.map((pod) => this.read(pod)));
    return readings.filter((reading) => reading !== undefined);
  }

  private async ask(pod: Pod, sample: Sample): Promise<PodReading | undefined> {
    try {
      const answer = await pod.call((agent, deadlineMs) => agent.stats([], { deadlineMs }), GUEST_MS);
      const hasVm = !this.ctx.backends.byName(pod.document.vmm).capabilities.hostKernel;
      if (!answer.guest) throw new PodvmError("internal", "the guest says nothing of itself");
      const use = hasVm ? useOfGuest(answer.guest) : useOfCgroup(await pod.vm?.hostCost());
      sample.reading = this.take(pod, hasVm, use, answer.guest, answer.containers);
      sample.takenMs = performance.now();
      return sample.reading;
    } catch (err) {
      const usable = sample.reading && performance.now() - sample.takenMs < STALE_MS;
      const instead = usable ? "its last statistics stand in" : "it is left out";
      this.ctx.logger.warn(`no statistics from a guest: ${instead}`, { pod: pod.id, reason: messageOf(err) });
      return usable && sample.reading ? { ...sample.reading, stale: true } : undefined;
    }
  }

  private take(pod: Pod, hasVm: boolean, use: PodUse, guest: GuestStats, list: ContainerStats[]): PodReading {
    const most = BigInt(hasVm ? pod.size.vcpus : availableParallelism()) * NS_PER_SECOND;
    const rate = (key: Pod | Container, timeNs: bigint, cpuNs: bigint) => {
      const found = this.rate(key, timeNs, cpuNs);
      return found !== undefined && { nanoCores: found > most ? most : found };
    };
    const told = new Set<Container>();
    const containers: ContainerReading[] = [];
    for (const stats of list) {
      const container = this.ctx.registry.containerOf(pod.id, stats.containerId);
      if (!container || told.has(container)) continue; // a guest speaks of its own containers only, once
      told.add(container);
      const atNs = BigInt(guestTime(stats.timeNs));
      containers.push({ container, stats, atNs, ...rate(container, stats.timeNs, stats.cpuUsageNs) });
    }
    const atNs = BigInt(guestTime(guest.timeNs));
    return { pod, hasVm, use, guest, atNs, containers, stale: false, ...rate(pod, guest.timeNs, use.cpuNs) };
  }

  private rate(key: Pod | Container, timeNs: bigint, cpuNs: bigint): bigint | undefined {
    const before = this.last.get(key);
    if (before && timeNs - before.timeNs < MIN_WINDOW_NS) return before.nanoCores;
    const nanoCores =
      before && cpuNs >= before.cpuNs ? ((cpuNs - before.cpuNs) * NS_PER_SECOND) / (timeNs - before.timeNs) : undefined;
    this.last.set(key, { timeNs, cpuNs, ...(nanoCores !== undefined && { nanoCores }) });
    return nanoCores;
  }
}

function useOfGuest(guest: GuestStats): PodUse {
  const memoryWorkingSet = difference(guest.memoryTotal, guest.memoryAvailable);
  return {
    cpuNs: guest.cpuUsageNs,
    memoryUsage: difference(guest.memoryTotal, guest.memoryFree),
    memoryWorkingSet,
    memoryAvailable: difference(guest.memoryTotal, memoryWorkingSet),
    memoryRss: guest.memoryRss,
    pageFaults: { all: guest.memoryPageFaults, major: guest.memoryMajorPageFaults },
  };
}

function useOfCgroup(cost: HostCost | undefined): PodUse {
  if (!cost) throw new PodvmError("unavailable", "the pod's agent is gone");
  return { cpuNs: cost.cpuNs, memoryUsage: BigInt(cost.rss), memoryWorkingSet: BigInt(cost.pss) };
}

/** Numbers of a guest: neither is sure to be the greater. */
export function difference(from: bigint, less: bigint): bigint {
  return from > less ? from - less : 0n;
}

/** A reading outlives containers: those that were removed meanwhile are gone from it. */
function current(ctx: PodContext, reading: PodReading): PodReading {
  const containers = reading.containers.filter(
    ({ container }) => ctx.registry.findContainer(container.id) === container,
  );
  return containers.length === reading.containers.length ? reading : { ...reading, containers };
}

/** What a pod's VMM costs this node; undefined where there is none. */
export async function hostCost(pod: Pod): Promise<HostCost | undefined> {
  return pod.vm?.hostCost().catch(() => undefined); // it may die in between: then it costs nothing
}
