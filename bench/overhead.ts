/**
 * What a pod's VM takes beside the containers' limits, for the `overhead` of RuntimeClasses:
 *   node dist/bench/overhead.js [MEMORY-LIMIT-IN-MIB…]         (after `make build test-setup`; as root)
 * For each limit a pod whose one container touches all the memory that it may, and reads and writes files; then what the VM's cgroup was charged at most.
 */
import { readFile } from "node:fs/promises";
import { release } from "node:os";
import { TestImages } from "../test/support/images.js";
import { busybox } from "../test/support/manifests.js";
import { processes } from "../test/support/node.js";
import { Podvm } from "../test/support/podvm.js";

const MIB = 1024 * 1024;
const limits = process.argv.length > 2 ? process.argv.slice(2).map(Number) : [64, 256, 1024];
const images = await TestImages.served("busybox");
const podvm = await Podvm.started({ mirror: images.url });
try {
  await podvm.crictl.run("pull", busybox);
  console.log(`kernel ${release()}; MiB, at most:`);
  for (const limit of limits) await measure(limit);
} finally {
  await podvm.destroy();
  await images.close();
}

async function measure(limitMib: number): Promise<void> {
  const resources = { memory_limit_in_bytes: limitMib * MIB };
  const { podId, id } = await podvm.podWith(
    { linux: { resources: { ...resources, memory_swap_limit_in_bytes: limitMib * MIB } } },
    { linux: { resources } },
  );
  const vmm = processes(podvm).find(({ command }) => /qemu-system/.test(command));
  if (!vmm) throw new Error("no VMM process");
  const idle = await memory(vmm.pid);
  // Nine tenths of the limit, touched; then files, whose pages the guest keeps as long as it can.
  const block = Math.floor(limitMib * 0.9);
  await podvm.crictl.run("exec", "--sync", id, "dd", "if=/dev/zero", "of=/dev/null", `bs=${block}M`, "count=1");
  await podvm.crictl.run("exec", "--sync", id, "dd", "if=/dev/zero", "of=/file", "bs=1M", `count=${limitMib + 200}`);
  await podvm.crictl.run("exec", "--sync", id, "cp", "/file", "/dev/null");
  const busy = await memory(vmm.pid);
  const guest = await guestMemory(vmm.pid);
  console.log(
    `  limit ${limitMib}: guest ${guest}; resident idle ${idle.resident} (beside the guest's memory ${idle.own}), ` +
      `busy ${busy.resident} (${busy.own}); overhead ${busy.resident - limitMib}, bound ${guest + busy.own - limitMib}`,
  );
  await podvm.removePod(podId);
}

/** The guest's memory is QEMU's largest mapping. */
async function mappings(pid: number) {
  const found: { size: number; resident: number }[] = [];
  for (const line of (await readFile(`/proc/${pid}/smaps`, "utf8")).split("\n")) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (range)
      found.push({ size: Number.parseInt(range[2] ?? "", 16) - Number.parseInt(range[1] ?? "", 16), resident: 0 });
    const anonymous = /^Anonymous:\s+(\d+) kB/.exec(line);
    const last = found.at(-1);
    if (anonymous && last) last.resident = Number(anonymous[1]) * 1024;
  }
  return found.sort((a, b) => b.resident - a.resident);
}

/** Anonymous memory of the process: what a cgroup cannot reclaim. */
async function memory(pid: number): Promise<{ resident: number; own: number }> {
  const [guest, ...others] = await mappings(pid);
  const own = others.reduce((sum, { resident }) => sum + resident, 0);
  return { resident: Math.ceil((own + (guest?.resident ?? 0)) / MIB), own: Math.ceil(own / MIB) };
}

async function guestMemory(pid: number): Promise<number> {
  return Math.round(((await mappings(pid))[0]?.size ?? 0) / MIB);
}
