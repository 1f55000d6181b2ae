import type { InterfaceStats } from "../../gen/agent/v1/agent.js";
import type { PodReading } from "../../pod/stats.js";
import type { HostCost } from "../../vmm/vmm.js";
import { ownInterfaces } from "../render-stats.js";
import { FAULT_LABELS, faults, onScratch, total } from "./container.js";
import { type Definition, one, type Sample, seconds } from "./definition.js";

export interface PodSubject {
  reading: PodReading;
  host: HostCost | undefined;
}

/** What metrics of the containers say of the pod as a whole, as cAdvisor's series without a container's name do. Their help is the containers'. */
export const POD_TOTALS: readonly Omit<Definition<PodSubject>, "help">[] = [
  {
    name: "container_cpu_usage_seconds_total",
    type: "counter",
    labels: ["cpu"],
    read: ({ reading }) => total(reading.use.cpuNs),
  },
  {
    name: "container_memory_usage_bytes",
    type: "gauge",
    read: ({ reading }) => one(reading.use.memoryUsage),
  },
  {
    name: "container_memory_working_set_bytes",
    type: "gauge",
    read: ({ reading }) => one(reading.use.memoryWorkingSet),
  },
  { name: "container_memory_rss", type: "gauge", read: ({ reading }) => optional(reading.use.memoryRss) },
  {
    name: "container_memory_failures_total",
    type: "counter",
    labels: FAULT_LABELS,
    read: ({ reading: { use } }) => (use.pageFaults ? faults(use.pageFaults.all, use.pageFaults.major) : []),
  },
  {
    name: "container_fs_usage_bytes",
    type: "gauge",
    labels: ["device"],
    read: ({ reading }) => onScratch(reading.guest.scratchUsed),
  },
  {
    name: "container_fs_limit_bytes",
    type: "gauge",
    labels: ["device"],
    read: ({ reading }) => onScratch(reading.guest.scratchTotal),
  },
  { name: "container_processes", type: "gauge", read: ({ reading }) => one(reading.guest.containerProcesses) },
  { name: "container_last_seen", type: "gauge", read: ({ reading }) => one(seconds(reading.atNs)) },
];

/** What only the pod has: its network, and its VM. */
export const POD_METRICS: readonly Definition<PodSubject>[] = [
  {
    name: "container_network_receive_bytes_total",
    help: "Cumulative count of bytes received.",
    type: "counter",
    labels: ["interface"],
    read: ({ reading }) => perInterface(reading, (i) => i.rxBytes),
  },
  {
    name: "container_network_receive_packets_total",
    help: "Cumulative count of packets received.",
    type: "counter",
    labels: ["interface"],
    read: ({ reading }) => perInterface(reading, (i) => i.rxPackets),
  },
  {
    name: "container_network_receive_packets_dropped_total",
    help: "Cumulative count of packets dropped while receiving.",
    type: "counter",
    labels: ["interface"],
    read: ({ reading }) => perInterface(reading, (i) => i.rxDropped),
  },
  {
    name: "container_network_receive_errors_total",
    help: "Cumulative count of errors encountered while receiving.",
    type: "counter",
    labels: ["interface"],
    read: ({ reading }) => perInterface(reading, (i) => i.rxErrors),
  },
  {
    name: "container_network_transmit_bytes_total",
    help: "Cumulative count of bytes transmitted.",
    type: "counter",
    labels: ["interface"],
    read: ({ reading }) => perInterface(reading, (i) => i.txBytes),
  },
  {
    name: "container_network_transmit_packets_total",
    help: "Cumulative count of packets transmitted.",
    type: "counter",
    labels: ["interface"],
    read: ({ reading }) => perInterface(reading, (i) => i.txPackets),
  },
  {
    name: "container_network_transmit_packets_dropped_total",
    help: "Cumulative count of packets dropped while transmitting.",
    type: "counter",
    labels: ["interface"],
    read: ({ reading }) => perInterface(reading, (i) => i.txDropped),
  },
  {
    name: "container_network_transmit_errors_total",
    help: "Cumulative count of errors encountered while transmitting.",
    type: "counter",
    labels: ["interface"],
    read: ({ reading }) => perInterface(reading, (i) => i.txErrors),
  },
  {
    name: "podvm_pod_vm_memory_bytes",
    help: "Memory that the pod's VM is to have.",
    type: "gauge",
    read: ({ reading }) => (reading.hasVm ? one(BigInt(reading.pod.size.memoryMib) << 20n) : []),
  },
  {
    name: "podvm_pod_vm_cpus",
    help: "CPUs that the pod's VM is to have.",
    type: "gauge",
    read: ({ reading }) => (reading.hasVm ? one(BigInt(reading.pod.size.vcpus)) : []),
  },
  {
    name: "podvm_pod_host_memory_pss_bytes",
    help: "What the pod's VMM costs this node: proportional set size.",
    type: "gauge",
    read: ({ host }) => (host ? one(BigInt(host.pss)) : []),
  },
  {
    name: "podvm_pod_host_memory_rss_bytes",
    help: "Resident set size of the pod's VMM.",
    type: "gauge",
    read: ({ host }) => (host ? one(BigInt(host.rss)) : []),
  },
  {
    name: "podvm_pod_host_cpu_seconds_total",
    help: "CPU time of this node that the pod's VMM has used.",
    type: "counter",
    read: ({ host }) => (host ? one(seconds(host.cpuNs)) : []),
  },
];

function perInterface(reading: PodReading, read: (one: InterfaceStats) => bigint): Sample[] {
  return ownInterfaces(reading).map((one) => ({ value: read(one), labels: [one.name] }));
}

function optional(value: bigint | undefined): Sample[] {
  return value === undefined ? [] : one(value);
}
