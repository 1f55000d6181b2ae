import type { LinuxContainerResources } from "../gen/runtime/v1/api.js";
import type { Resources } from "../pod/types.js";
import { integer, list, stringMap, text } from "./checks.js";

/** CRI's zero values mean "not given": they are left out, so that an update changes only what was named. */
export function parseResources(what: string, value: LinuxContainerResources | undefined): Resources {
  const resources: Resources = {};
  if (!value) return resources;
  if (value.cpuPeriod) resources.cpuPeriod = integer(`${what}.cpu_period`, value.cpuPeriod, 1000, 1_000_000);
  if (value.cpuQuota) resources.cpuQuota = integer(`${what}.cpu_quota`, value.cpuQuota, -1);
  if (value.cpuShares) resources.cpuShares = integer(`${what}.cpu_shares`, value.cpuShares, 2, 262_144);
  if (value.memoryLimitInBytes)
    resources.memoryLimit = integer(`${what}.memory_limit_in_bytes`, value.memoryLimitInBytes, -1);
  if (value.memorySwapLimitInBytes) {
    resources.memorySwapLimit = integer(`${what}.memory_swap_limit_in_bytes`, value.memorySwapLimitInBytes, -1);
  }
  if (value.oomScoreAdj) resources.oomScoreAdj = integer(`${what}.oom_score_adj`, value.oomScoreAdj, -1000, 1000);
  if (value.cpusetCpus) resources.cpusetCpus = text(`${what}.cpuset_cpus`, value.cpusetCpus, 256);
  if (value.cpusetMems) resources.cpusetMems = text(`${what}.cpuset_mems`, value.cpusetMems, 256);
  if (value.hugepageLimits.length > 0) {
    resources.hugepages = list(`${what}.hugepage_limits`, value.hugepageLimits, 8).map((limit) => ({
      pageSize: text(`${what}.hugepage_limits.page_size`, limit.pageSize, 16),
      limit: integer(`${what}.hugepage_limits.limit`, limit.limit, 0),
    }));
  }
  if (Object.keys(value.unified).length > 0) resources.unified = stringMap(`${what}.unified`, value.unified);
  return resources;
}

/** What CRI answers in ContainerStatus.resources: the values in force. */
export function renderResources(resources: Resources): Partial<LinuxContainerResources> {
  return {
    cpuPeriod: BigInt(resources.cpuPeriod ?? 0),
    cpuQuota: BigInt(resources.cpuQuota ?? 0),
    cpuShares: BigInt(resources.cpuShares ?? 0),
    memoryLimitInBytes: BigInt(resources.memoryLimit ?? 0),
    memorySwapLimitInBytes: BigInt(resources.memorySwapLimit ?? 0),
    oomScoreAdj: BigInt(resources.oomScoreAdj ?? 0),
    cpusetCpus: resources.cpusetCpus ?? "",
    cpusetMems: resources.cpusetMems ?? "",
    hugepageLimits: (resources.hugepages ?? []).map(({ pageSize, limit }) => ({ pageSize, limit: BigInt(limit) })),
    unified: resources.unified ?? {},
  };
}
