import type { InterfaceStats, Pressure, PressureLine } from "../gen/agent/v1/agent.js";
import {
  ContainerStats as ContainerStatsCodec,
  type ContainerStats as CriContainerStats,
  type PodSandboxStats,
  PodSandboxStats as PodSandboxStatsCodec,
  type PsiData,
  type PsiStats,
} from "../gen/runtime/v1/api.js";
import { type ContainerReading, difference, type PodReading } from "../pod/stats.js";
import { containerMetadata, podMetadata } from "./render.js";

const value = (number: bigint) => ({ value: number });

/** From a guest's statistics to CRI's messages. `stateDir` names the file system that the writable layers lie on. */
export function renderContainerStats(reading: ContainerReading, stateDir: string): CriContainerStats {
  const { container, stats, nanoCores, atNs: timestamp } = reading;
  const { labels, annotations } = container.document.config;
  return ContainerStatsCodec.fromPartial({
    attributes: { id: container.id, metadata: containerMetadata(container), labels, annotations },
    cpu: {
      timestamp,
      usageCoreNanoSeconds: value(stats.cpuUsageNs),
      usageNanoCores: nanoCores === undefined ? undefined : value(nanoCores),
      psi: renderPressure(stats.cpuPressure),
    },
    memory: {
      timestamp,
      workingSetBytes: value(stats.memoryWorkingSet),
      // CRI: "defined as the memory limit - workingSetBytes"; without a limit there is no such number.
      availableBytes: stats.memoryLimit > 0n ? value(difference(stats.memoryLimit, stats.memoryWorkingSet)) : undefined,
      usageBytes: value(stats.memoryUsage),
      rssBytes: value(stats.memoryRss),
      pageFaults: value(stats.memoryPageFaults),
      majorPageFaults: value(stats.memoryMajorPageFaults),
      psi: renderPressure(stats.memoryPressure),
    },
    swap: stats.swapCounted
      ? {
          timestamp,
          swapUsageBytes: value(stats.memorySwap),
          swapAvailableBytes: value(difference(stats.memorySwapLimit, stats.memorySwap)),
        }
      : undefined,
    io: { timestamp, psi: renderPressure(stats.ioPressure) },
    writableLayer: {
      timestamp,
      fsId: { mountpoint: stateDir },
      usedBytes: value(stats.fsUsed),
      inodesUsed: value(stats.fsInodes),
    },
  });
}

/** What the pod uses. What its VM costs the node is in the verbose PodSandboxStatus and in the metrics. */
export function renderPodStats(reading: PodReading, stateDir: string): PodSandboxStats {
  const { pod, use, guest, hasVm, nanoCores, atNs: timestamp } = reading;
  const { labels, annotations } = pod.document.config;
  const psi = (pressure: Pressure | undefined) => (hasVm ? renderPressure(pressure) : undefined);
  const optional = (number: bigint | undefined) => (number === undefined ? undefined : value(number));
  const interfaces = ownInterfaces(reading).map((one) => ({
    name: one.name,
    rxBytes: value(one.rxBytes),
    rxErrors: value(one.rxErrors),
    txBytes: value(one.txBytes),
    txErrors: value(one.txErrors),
  }));
  return PodSandboxStatsCodec.fromPartial({
    attributes: { id: pod.id, metadata: podMetadata(pod), labels, annotations },
    linux: {
      cpu: {
        timestamp,
        usageCoreNanoSeconds: value(use.cpuNs),
        usageNanoCores: optional(nanoCores),
        psi: psi(guest.cpuPressure),
      },
      memory: {
        timestamp,
        workingSetBytes: value(use.memoryWorkingSet),
        availableBytes: optional(use.memoryAvailable),
        usageBytes: value(use.memoryUsage),
        rssBytes: optional(use.memoryRss),
        pageFaults: optional(use.pageFaults?.all),
        majorPageFaults: optional(use.pageFaults?.major),
        psi: psi(guest.memoryPressure),
      },
      network: {
        timestamp,
        defaultInterface: interfaces.find((one) => one.name === "eth0"),
        interfaces: interfaces.filter((one) => one.name !== "eth0"),
      },
      process: { timestamp, processCount: value(guest.containerProcesses) },
      io: { timestamp, psi: psi(guest.ioPressure) },
      containers: reading.containers
        .filter(({ container }) => container.running)
        .map((one) => renderContainerStats(one, stateDir)),
    },
  });
}

/** None where the pod uses the host's: what goes through them is not its own. */
export function ownInterfaces({ pod, guest }: PodReading): InterfaceStats[] {
  return pod.document.vm.hostNamespaces?.includes("network") ? [] : guest.interfaces;
}

function renderPressure(pressure: Pressure | undefined): PsiStats | undefined {
  if (!pressure) return undefined;
  return { Some: renderLine(pressure.some), Full: renderLine(pressure.full) };
}

function renderLine(line: PressureLine | undefined): PsiData | undefined {
  if (!line) return undefined;
  return { Total: line.totalNs, Avg10: percent(line.avg10), Avg60: percent(line.avg60), Avg300: percent(line.avg300) };
}

/** A guest may say anything, also what is no number. */
function percent(number: number): number {
  return number >= 0 && number <= 100 ? number : 0;
}
