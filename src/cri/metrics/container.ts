import type { GuestStats, PressureLine } from "../../gen/agent/v1/agent.js";
import type { ContainerReading } from "../../pod/stats.js";
import { type Definition, one, type Sample, seconds } from "./definition.js";

export type ContainerSubject = ContainerReading & { guest: GuestStats };

export const FAULT_LABELS = ["failure_type", "scope"];

/** The containers' writable layers share the pod's scratch disk; it is all that they read from and write to but their images. */
export const onScratch = (value: bigint): Sample[] => [{ value, labels: ["scratch"] }];

/** cAdvisor's label for all CPUs together. */
export const total = (ns: bigint): Sample[] => [{ value: seconds(ns), labels: ["total"] }];

export const faults = (all: bigint, major: bigint): Sample[] => [
  { value: all, labels: ["pgfault", "container"] },
  { value: major, labels: ["pgmajfault", "container"] },
];

/** Absent where the guest's kernel does not measure it. */
const stalled = (line: PressureLine | undefined): Sample[] => (line ? one(seconds(line.totalNs)) : []);

/** A limit; -1 is CRI's word for none. */
const given = (value: number | undefined): Sample[] => (value === undefined || value < 0 ? [] : one(BigInt(value)));

/** Under cAdvisor's names, with its labels and its help, as kubelet's /metrics/cadvisor has them. */
export const CONTAINER_METRICS: readonly Definition<ContainerSubject>[] = [
  {
    name: "container_cpu_usage_seconds_total",
    help: "Cumulative CPU time consumed in seconds.",
    type: "counter",
    labels: ["cpu"],
    read: ({ stats }) => total(stats.cpuUsageNs),
  },
  {
    name: "container_cpu_user_seconds_total",
    help: "Cumulative user CPU time consumed in seconds.",
    type: "counter",
    read: ({ stats }) => one(seconds(stats.cpuUserNs)),
  },
  {
    name: "container_cpu_system_seconds_total",
    help: "Cumulative system CPU time consumed in seconds.",
    type: "counter",
    read: ({ stats }) => one(seconds(stats.cpuSystemNs)),
  },
  {
    name: "container_cpu_cfs_periods_total",
    help: "Number of elapsed enforcement period intervals.",
    type: "counter",
    read: ({ stats }) => one(stats.cpuPeriods),
  },
  {
    name: "container_cpu_cfs_throttled_periods_total",
    help: "Number of throttled period intervals.",
    type: "counter",
    read: ({ stats }) => one(stats.cpuThrottledPeriods),
  },
  {
    name: "container_cpu_cfs_throttled_seconds_total",
    help: "Total time duration the container has been throttled.",
    type: "counter",
    read: ({ stats }) => one(seconds(stats.cpuThrottledNs)),
  },
  {
    name: "container_memory_usage_bytes",
    help: "Current memory usage in bytes, including all memory regardless of when it was accessed.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryUsage),
  },
  {
    name: "container_memory_working_set_bytes",
    help: "Current working set in bytes.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryWorkingSet),
  },
  {
    name: "container_memory_rss",
    help: "Size of RSS in bytes.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryRss),
  },
  {
    name: "container_memory_cache",
    help: "Number of bytes of page cache memory.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryCache),
  },
  {
    name: "container_memory_swap",
    help: "Container swap usage in bytes.",
    type: "gauge",
    read: ({ stats }) => one(stats.memorySwap),
  },
  {
    name: "container_memory_kernel_usage",
    help: "Size of kernel memory allocated in bytes.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryKernel),
  },
  {
    name: "container_memory_mapped_file",
    help: "Size of memory mapped files in bytes.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryMappedFile),
  },
  {
    name: "container_memory_max_usage_bytes",
    help: "Maximum memory usage recorded in bytes.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryPeak),
  },
  {
    name: "container_memory_total_active_file_bytes",
    help: "Current total active file in bytes.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryActiveFile),
  },
  {
    name: "container_memory_total_inactive_file_bytes",
    help: "Current total inactive file in bytes.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryInactiveFile),
  },
  {
    name: "container_memory_failcnt",
    help: "Number of memory usage hits limits.",
    type: "counter",
    read: ({ stats }) => one(stats.memoryFailures),
  },
  {
    name: "container_memory_failures_total",
    help: "Cumulative count of memory allocation failures.",
    type: "counter",
    labels: FAULT_LABELS,
    read: ({ stats }) => faults(stats.memoryPageFaults, stats.memoryMajorPageFaults),
  },
  {
    name: "container_oom_events_total",
    help: "Count of out of memory events observed for the container.",
    type: "counter",
    read: ({ stats }) => one(stats.oomKills),
  },
  {
    name: "container_fs_usage_bytes",
    help: "Number of bytes that are consumed by the container on this filesystem.",
    type: "gauge",
    labels: ["device"],
    read: ({ stats }) => onScratch(stats.fsUsed),
  },
  {
    name: "container_fs_limit_bytes",
    help: "Number of bytes that can be consumed by the container on this filesystem.",
    type: "gauge",
    labels: ["device"],
    read: ({ guest }) => onScratch(guest.scratchTotal),
  },
  {
    name: "container_fs_inodes_total",
    help: "Number of Inodes.",
    type: "gauge",
    labels: ["device"],
    read: ({ guest }) => onScratch(guest.scratchInodesTotal),
  },
  {
    name: "container_fs_inodes_free",
    help: "Number of available Inodes.",
    type: "gauge",
    labels: ["device"],
    read: ({ guest }) => onScratch(guest.scratchInodesFree),
  },
  {
    name: "container_fs_reads_bytes_total",
    help: "Cumulative count of bytes read.",
    type: "counter",
    labels: ["device"],
    read: ({ stats }) => onScratch(stats.ioReadBytes),
  },
  {
    name: "container_fs_writes_bytes_total",
    help: "Cumulative count of bytes written.",
    type: "counter",
    labels: ["device"],
    read: ({ stats }) => onScratch(stats.ioWriteBytes),
  },
  {
    name: "container_fs_reads_total",
    help: "Cumulative count of reads completed.",
    type: "counter",
    labels: ["device"],
    read: ({ stats }) => onScratch(stats.ioReads),
  },
  {
    name: "container_fs_writes_total",
    help: "Cumulative count of writes completed.",
    type: "counter",
    labels: ["device"],
    read: ({ stats }) => onScratch(stats.ioWrites),
  },
  {
    name: "container_processes",
    help: "Number of processes running inside the container.",
    type: "gauge",
    read: ({ stats }) => one(stats.processes),
  },
  {
    name: "container_threads",
    help: "Number of threads running inside the container.",
    type: "gauge",
    read: ({ stats }) => one(stats.pids),
  },
  {
    name: "container_threads_max",
    help: "Maximum number of threads allowed inside the container, infinity if value is zero.",
    type: "gauge",
    read: ({ stats }) => one(stats.pidsLimit),
  },
  {
    name: "container_start_time_seconds",
    help: "Start time of the container since unix epoch in seconds.",
    type: "gauge",
    read: ({ container }) => one(seconds(BigInt(container.document.startedNs))),
  },
  {
    name: "container_last_seen",
    help: "Last time a container was seen by the exporter.",
    type: "gauge",
    read: ({ atNs }) => one(seconds(atNs)),
  },
  {
    name: "container_spec_cpu_period",
    help: "CPU period of the container.",
    type: "gauge",
    read: ({ container }) => given(container.document.config.resources.cpuPeriod),
  },
  {
    name: "container_spec_cpu_quota",
    help: "CPU quota of the container.",
    type: "gauge",
    read: ({ container }) => given(container.document.config.resources.cpuQuota),
  },
  {
    name: "container_spec_cpu_shares",
    help: "CPU share of the container.",
    type: "gauge",
    read: ({ container }) => given(container.document.config.resources.cpuShares),
  },
  {
    name: "container_spec_memory_limit_bytes",
    help: "Memory limit for the container.",
    type: "gauge",
    read: ({ stats }) => one(stats.memoryLimit),
  },
  {
    name: "container_spec_memory_swap_limit_bytes",
    help: "Memory swap limit for the container.",
    type: "gauge",
    read: ({ stats }) => one(stats.memorySwapLimit),
  },
  {
    name: "container_pressure_cpu_waiting_seconds_total",
    help: "Total time duration at least one task in the container waited due to CPU time congestion.",
    type: "counter",
    read: ({ stats }) => stalled(stats.cpuPressure?.some),
  },
  {
    name: "container_pressure_cpu_stalled_seconds_total",
    help: "Total time duration no tasks in the container could make progress due to CPU time congestion.",
    type: "counter",
    read: ({ stats }) => stalled(stats.cpuPressure?.full),
  },
  {
    name: "container_pressure_memory_waiting_seconds_total",
    help: "Total time duration at least one task in the container waited due to memory congestion.",
    type: "counter",
    read: ({ stats }) => stalled(stats.memoryPressure?.some),
  },
  {
    name: "container_pressure_memory_stalled_seconds_total",
    help: "Total time duration no tasks in the container could make progress due to memory congestion.",
    type: "counter",
    read: ({ stats }) => stalled(stats.memoryPressure?.full),
  },
  {
    name: "container_pressure_io_waiting_seconds_total",
    help: "Total time duration at least one task in the container waited due to IO congestion.",
    type: "counter",
    read: ({ stats }) => stalled(stats.ioPressure?.some),
  },
  {
    name: "container_pressure_io_stalled_seconds_total",
    help: "Total time duration no tasks in the container could make progress due to IO congestion.",
    type: "counter",
    read: ({ stats }) => stalled(stats.ioPressure?.full),
  },
];
