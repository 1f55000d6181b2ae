/**
 * Memory and CPUs of a running VM. CPUs are hot-plugged by ACPI. Memory beyond what the VM began with is a virtio-mem device, made when it is
 * first needed; below that, a balloon takes it from the guest. What there is, is asked of QEMU and not remembered: an earlier server may have
 * changed it. docs/vmm.md has the reasons.
 */
import * as v from "valibot";
import { sleep } from "../../host/deadline.js";
import { PodvmError } from "../../host/errors.js";
import type { VmSize, VmSpec } from "../vmm.js";
import type { Qmp } from "./qmp.js";

/** Linux plugs virtio-mem in and out by no less than a page block, 2 or 4 MiB. */
const BLOCK_MIB = 4;
const MIB = 1024 * 1024;
const MEMORY = { backend: "vmem0-ram", device: "vmem0" } as const;
const BALLOON = "balloon0";
/** A guest that gets on is waited for; one that has not moved for so long will not. */
const STALL_MS = 10_000;
const PAUSE_MS = 20;

const Cpus = v.array(
  v.object({ type: v.string(), props: v.record(v.string(), v.number()), "qom-path": v.optional(v.string()) }),
);
const Peripherals = v.array(v.object({ name: v.string() }));
const Kvm = v.object({ enabled: v.boolean() });
const Balloon = v.object({ actual: v.number() });

type Execute = Qmp["execute"];

/** Throws resource_exhausted or failed_precondition where the VM can never have this size. */
export function checkSize(spec: VmSpec, size: VmSize): void {
  const { maxMemoryMib, maxVcpus } = spec;
  if (maxMemoryMib === undefined || maxVcpus === undefined) {
    throw new PodvmError(
      "failed_precondition",
      "this VM was started by an earlier version of PodVM, without room to grow: recreate the pod",
    );
  }
  if (size.memoryMib > maxMemoryMib || size.vcpus > maxVcpus) {
    throw new PodvmError(
      "resource_exhausted",
      `wanted a VM of ${size.memoryMib} MiB and ${size.vcpus} CPUs; it can have at most ${maxMemoryMib} MiB and ${maxVcpus} CPUs, ` +
        "which is what this node had when it started",
    );
  }
}

/**
 * Gives the VM as many CPUs. New ones are there for the guest to bring online; those that go have been let go of by the guest. Under TCG they are all
 * there already (command.ts), and the guest alone decides.
 */
export async function resizeCpus(execute: Execute, vcpus: number, deadlineMs: number): Promise<void> {
  const end = performance.now() + deadlineMs;
  const left = () => Math.max(1, end - performance.now());
  if (!parse(Kvm, await execute("query-kvm", {}, left()), "query-kvm").enabled) return;
  const slots = await cpuSlots(execute, left());
  const plugged = slots.filter((slot) => slot["qom-path"] !== undefined);
  const free = slots.filter((slot) => slot["qom-path"] === undefined);
  for (const { type, props } of free.slice(0, Math.max(0, vcpus - plugged.length))) {
    await execute("device_add", { driver: type, id: `cpu${props["core-id"] ?? 0}`, ...props }, left());
  }
  const surplus = plugged.slice(vcpus);
  for (const slot of surplus) await execute("device_del", { id: slot["qom-path"] }, left());
  while (surplus.length > 0) {
    const now = (await cpuSlots(execute, left())).filter((slot) => slot["qom-path"] !== undefined).length;
    if (now <= vcpus) return;
    if (performance.now() > end) {
      throw new PodvmError("deadline_exceeded", `wanted ${vcpus} CPUs, the guest still holds ${now}`);
    }
    await sleep(PAUSE_MS);
  }
}

/** By core, the one that the VM cannot lose first. */
async function cpuSlots(execute: Execute, deadlineMs: number) {
  const slots = parse(Cpus, await execute("query-hotpluggable-cpus", {}, deadlineMs), "query-hotpluggable-cpus");
  const core = (slot: (typeof slots)[number]) => slot.props["core-id"] ?? 0;
  return slots.sort((a, b) => core(a) - core(b));
}

/** Gives the guest as much memory, or takes it; resolves when the guest has followed. */
export async function resizeMemory(
  execute: Execute,
  spec: VmSpec,
  memoryMib: number,
  deadlineMs: number,
): Promise<void> {
  const end = performance.now() + deadlineMs;
  const left = () => Math.max(1, end - performance.now());
  const present = parse(Peripherals, await execute("qom-list", { path: "/machine/peripheral" }, left()), "qom-list");
  const has = (name: string) => present.some((device) => device.name === name);
  const extra = Math.ceil(Math.max(0, memoryMib - spec.memoryMib) / BLOCK_MIB) * BLOCK_MIB;

  const inflated = memoryMib < spec.memoryMib;
  if (has(BALLOON) && !inflated) await balloon(execute, spec.memoryMib, left());
  if (extra > 0 && !has(MEMORY.device)) await addMemoryDevice(execute, spec, left());
  if (extra > 0 || has(MEMORY.device)) {
    const device = `/machine/peripheral/${MEMORY.device}`;
    await execute("qom-set", { path: device, property: "requested-size", value: extra * MIB }, left());
    await follow("memory", extra * MIB, left(), async () => {
      return parse(v.number(), await execute("qom-get", { path: device, property: "size" }, left()), "size");
    });
  }
  if (inflated) {
    if (!has(BALLOON)) {
      await execute("device_add", { driver: "virtio-balloon-pci", id: BALLOON, "disable-legacy": "on" }, left());
    }
    await balloon(execute, memoryMib, left());
  }
}

/** It costs what is plugged in; the rest are addresses. (QEMU's reserve=off would read /proc, which is not in its root.) */
async function addMemoryDevice(execute: Execute, spec: VmSpec, deadlineMs: number): Promise<void> {
  const room = Math.floor(((spec.maxMemoryMib ?? 0) - spec.memoryMib) / BLOCK_MIB) * BLOCK_MIB;
  const backend = { "qom-type": "memory-backend-ram", id: MEMORY.backend, size: room * MIB };
  await execute("object-add", { ...backend, share: false, merge: false, dump: false }, deadlineMs);
  try {
    const device = { driver: "virtio-mem-pci", id: MEMORY.device, memdev: MEMORY.backend };
    await execute("device_add", { ...device, "block-size": BLOCK_MIB * MIB, "requested-size": 0 }, deadlineMs);
  } catch (err) {
    await execute("object-del", { id: MEMORY.backend }, deadlineMs).catch(() => {});
    throw err;
  }
}

async function balloon(execute: Execute, memoryMib: number, deadlineMs: number): Promise<void> {
  const value = memoryMib * MIB;
  await execute("balloon", { value }, deadlineMs);
  await follow("memory", value, deadlineMs, async () => {
    return parse(Balloon, await execute("query-balloon", {}, deadlineMs), "query-balloon").actual;
  });
}

/** Waits until the guest has done what was asked, as long as it gets nearer. */
async function follow(what: string, wanted: number, deadlineMs: number, read: () => Promise<number>): Promise<void> {
  const end = performance.now() + deadlineMs;
  let last: number | undefined;
  let moved = performance.now();
  for (;;) {
    const now = await read();
    if (now === wanted) return;
    if (now !== last) moved = performance.now();
    last = now;
    const time = performance.now();
    if (time > end || time - moved > STALL_MS) {
      const mib = (bytes: number) => Math.round(bytes / MIB);
      throw new PodvmError(
        "deadline_exceeded",
        `${what}: asked the guest to come to ${mib(wanted)} MiB, it stays at ${mib(now)} MiB; what it uses it cannot give back`,
      );
    }
    await sleep(PAUSE_MS);
  }
}

function parse<T>(schema: v.GenericSchema<unknown, T>, value: unknown, command: string): T {
  const parsed = v.safeParse(schema, value);
  if (!parsed.success) throw new PodvmError("unavailable", `QMP ${command}: the VMM answered something else`);
  return parsed.output;
}
