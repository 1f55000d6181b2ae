/** Memory and CPUs of a real VM that runs: what QEMU is told, and what the guest then has. */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { silentLogger } from "../../src/host/log.js";
import { createQemuVmm } from "../../src/vmm/qemu/backend.js";
import type { VmSpec } from "../../src/vmm/vmm.js";
import { until } from "../support/until.js";
import { session } from "./agent-host.js";
import * as host from "./vmm-host.js";

const DEADLINE_MS = 90_000;
const SETTLE_MS = 30_000;
const MIB = 1024 * 1024;

async function started(t: ExecutionContext, max: Pick<VmSpec, "maxMemoryMib" | "maxVcpus">) {
  const store = await host.folder(t);
  const { bundle, guest } = host.assets();
  const id = randomBytes(32).toString("hex");
  const spec: VmSpec = {
    id,
    dir: join(store, "vm"),
    runDir: `/run/podvm-test-${id}`,
    uid: 231_997,
    cgroup: host.cgroupName(t),
    memoryMib: 256,
    vcpus: 1,
    ...max,
    guest,
    bundle,
    disks: [],
  };
  const vmm = createQemuVmm({ assets: host.assets(), logger: silentLogger, accelerator: "auto" });
  t.teardown(() => vmm.destroy(spec, DEADLINE_MS));
  const vm = await vmm.start(spec, DEADLINE_MS);
  t.teardown(() => vm.release());
  const link = session(vm.link.path);
  t.teardown(() => link.close());
  const agent = await link.agent(DEADLINE_MS);
  const memoryMib = async () => Number((await agent.resize(0, 0)).memoryTotal) / MIB;
  return { vmm, vm, spec, agent, memoryMib };
}

test("memory and CPUs come and go while the VM runs, also with a server that has come back", async (t) => {
  const { vm, vmm, spec, agent, memoryMib } = await started(t, { maxMemoryMib: 2048, maxVcpus: 3 });
  const first = await memoryMib();
  t.true(first > 100 && first < 256, `${first} MiB`);
  t.is((await agent.resize(1, 1000)).cpus, 1);
  t.log(`${Math.round(first)} MiB of 256 usable with room for 3 CPUs`);

  await vm.resize({ memoryMib: 768, vcpus: 2 }, DEADLINE_MS);
  t.is((await agent.resize(2, DEADLINE_MS)).cpus, 2);
  // The guest brings memory online, and gives it back, a little after QEMU has plugged it.
  await until("512 MiB more", SETTLE_MS, async () => (await memoryMib()) > first + 480);
  const grown = await memoryMib();
  await vm.resize({ memoryMib: 768, vcpus: 2 }, DEADLINE_MS); // idempotent
  t.is(await memoryMib(), grown);

  vm.release();
  const again = await vmm.adopt(spec, DEADLINE_MS);
  if (!again) throw new Error("the VM is gone");
  t.teardown(() => again.release());
  await again.resize({ memoryMib: 1024, vcpus: 3 }, DEADLINE_MS);
  t.is((await agent.resize(3, DEADLINE_MS)).cpus, 3);
  await until("256 MiB more", SETTLE_MS, async () => (await memoryMib()) > grown + 200);

  await again.resize({ memoryMib: 256, vcpus: 1 }, DEADLINE_MS);
  t.is((await agent.resize(1, DEADLINE_MS)).cpus, 1);
  await until("as at first", SETTLE_MS, async () => Math.abs((await memoryMib()) - first) < 24);

  await again.resize({ memoryMib: 200, vcpus: 1 }, DEADLINE_MS);
  await until("a balloon takes what is below the beginning", SETTLE_MS, async () => (await memoryMib()) < first - 40);
  await again.resize({ memoryMib: 320, vcpus: 1 }, DEADLINE_MS);
  await until("64 MiB above the beginning", SETTLE_MS, async () => (await memoryMib()) > first + 40);
  t.pass();
});

test("more than there is room for is refused before anything changes", async (t) => {
  const { vm, memoryMib } = await started(t, { maxMemoryMib: 512, maxVcpus: 2 });
  const before = await memoryMib();
  for (const size of [
    { memoryMib: 513, vcpus: 1 },
    { memoryMib: 256, vcpus: 3 },
  ]) {
    const error = await t.throwsAsync(vm.resize(size, DEADLINE_MS));
    t.regex(error?.message ?? "", /it can have at most 512 MiB and 2 CPUs/);
  }
  t.is(await memoryMib(), before);
});

test("a VM of a version without resize says so", async (t) => {
  const { vm } = await started(t, {});
  t.throws(() => vm.checkSize({ memoryMib: 300, vcpus: 1 }), { message: /recreate the pod/ });
});
