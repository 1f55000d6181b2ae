import type { ContainerStats, GuestStats } from "../gen/agent/v1/agent.js";
import type { HostCost } from "../vmm/vmm.js";
import type { Container } from "./container.js";
import type { PodContext } from "./context.js";
import type { Pod } from "./pod.js";

const STATS_MS = 5_000;
/** Rates over less time than this are noise. */
const MIN_WINDOW_NS = 500_000_000n;
const NS_PER_SECOND = 1_000_000_000n;

export interface PodStats {
  pod: Pod;
  guest?: GuestStats;
  host?: HostCost;
  /** Nanoseconds of CPU per second, since the last reading. */
  nanoCores?: bigint;
  containers: { container: Container; stats: ContainerStats; nanoCores?: bigint }[];
}

/** Readings of the guests, with CPU rates from one to the next. */
export class StatsReader {
  private readonly last = new Map<string, { timeNs: bigint; cpuNs: bigint; nanoCores?: bigint }>();

  constructor(private readonly ctx: PodContext) {}

  /** One pod, both sides: what its guest uses and what its VMM costs. Where the guest does not answer in time its part is absent. */
  async read(pod: Pod): Promise<PodStats> {
    const result: PodStats = { pod, containers: [] };
    if (!pod.ready) return result;
    const [guest, host] = await Promise.allSettled([
      pod.call((agent, deadlineMs) => agent.stats([], { deadlineMs }), STATS_MS),
      pod.vm?.hostCost() ?? Promise.resolve(undefined),
    ]);
    if (host.status === "fulfilled" && host.value) {
      result.host = host.value;
      const rate = this.rate(`pod:${pod.id}`, BigInt(Date.now()) * 1_000_000n, host.value.cpuNs);
      if (rate !== undefined) result.nanoCores = rate;
    }
    if (guest.status === "rejected") {
      this.ctx.logger.warn("no statistics from a guest", { pod: pod.id, err: guest.reason });
      return result;
    }
    if (guest.value.guest) result.guest = guest.value.guest;
    const told = new Set<Container>();
    for (const stats of guest.value.containers) {
      const container = this.ctx.registry.containerOf(pod.id, stats.containerId);
      if (!container || told.has(container)) continue; // a guest speaks of its own containers only, once
      told.add(container);
      const rate = this.rate(container.id, stats.timeNs, stats.cpuUsageNs);
      const most = BigInt(pod.document.vm.vcpus) * NS_PER_SECOND;
      const nanoCores = rate !== undefined && rate > most ? most : rate;
      result.containers.push({ container, stats, ...(nanoCores !== undefined && { nanoCores }) });
    }
    return result;
  }

  async readAll(pods: Pod[]): Promise<PodStats[]> {
    this.forgetGone();
    return Promise.all(pods.map((pod) => this.read(pod)));
  }

  private rate(key: string, timeNs: bigint, cpuNs: bigint): bigint | undefined {
    const before = this.last.get(key);
    if (before && timeNs - before.timeNs < MIN_WINDOW_NS) return before.nanoCores;
    const nanoCores =
      before && cpuNs >= before.cpuNs ? ((cpuNs - before.cpuNs) * NS_PER_SECOND) / (timeNs - before.timeNs) : undefined;
    this.last.set(key, { timeNs, cpuNs, ...(nanoCores !== undefined && { nanoCores }) });
    return nanoCores;
  }

  private forgetGone(): void {
    for (const key of this.last.keys()) {
      const known = key.startsWith("pod:")
        ? this.ctx.registry.pods().some((pod) => `pod:${pod.id}` === key)
        : this.ctx.registry.containers().some((container) => container.id === key);
      if (!known) this.last.delete(key);
    }
  }
}
