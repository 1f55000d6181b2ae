import type { Accelerator } from "./accelerator.js";

/**
 * MiB that QEMU itself can take beside the guest's memory: heap, stacks, device buffers, and under TCG its translations (`bench/overhead.ts` measures it).
 * An upper bound, for a limit; not a reservation.
 */
export function ownMemoryMib(accelerator: Accelerator, vcpus: number): number {
  return (accelerator === "tcg" ? 96 : 64) + 4 * vcpus;
}
