/** The second byte stream into a guest, hot-added to a real QEMU: once, whoever asks, and found again by a server that did not add it. */
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect } from "node:net";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { hasCode } from "../../src/host/errors.js";
import { silentLogger } from "../../src/host/log.js";
import { createQemuVmm } from "../../src/vmm/qemu/backend.js";
import { Qmp } from "../../src/vmm/qemu/qmp.js";
import type { Vm, VmSpec } from "../../src/vmm/vmm.js";
import * as host from "./vmm-host.js";

const deadline = 60_000;
const backend = () => createQemuVmm({ assets: host.assets(), logger: silentLogger, accelerator: "auto" });

/** Paused at once: the guest has no part in it. */
async function startPaused(t: ExecutionContext): Promise<{ vm: Vm; spec: VmSpec }> {
  const { bundle, guest } = host.assets();
  const id = randomBytes(32).toString("hex");
  const spec: VmSpec = {
    id,
    dir: join(await host.folder(t), "vm"),
    runDir: `/run/podvm-test-${id}`,
    uid: 231_998,
    cgroup: `/podvm-test-${id.slice(0, 12)}`,
    memoryMib: 256,
    vcpus: 1,
    guest,
    bundle,
    disks: [],
  };
  const vmm = backend();
  t.teardown(() => vmm.destroy(spec, deadline));
  const vm = await vmm.start(spec, deadline);
  t.teardown(() => vm.release());
  await vm.pause();
  return { vm, spec };
}

async function adopted(t: ExecutionContext, spec: VmSpec): Promise<Vm> {
  const vm = await backend().adopt(spec, deadline);
  if (!vm) throw new Error("not adopted");
  t.teardown(() => vm.release());
  return vm;
}

/** Asks QEMU itself; nobody else may be connected. */
async function withQmp<T>(spec: VmSpec, use: (qmp: Qmp) => Promise<T>): Promise<T> {
  const qmp = await Qmp.connect(join(spec.runDir, "qmp.sock"), deadline);
  try {
    return await use(qmp);
  } finally {
    qmp.close();
  }
}

/** Names of the devices that were added by name and have to do with serial ports. */
function serialDevices(spec: VmSpec): Promise<string[]> {
  return withQmp(spec, async (qmp) => {
    const list = (await qmp.execute("qom-list", { path: "/machine/peripheral" }, deadline)) as { name: string }[];
    return list.map(({ name }) => name).filter((name) => /^(serial|share)/.test(name));
  });
}

/** Whether the VMM has the other end in use: "share" of query-chardev with the guest's front end attached. */
function portInUse(spec: VmSpec): Promise<boolean> {
  return withQmp(spec, async (qmp) => {
    const list = (await qmp.execute("query-chardev", {}, deadline)) as { label: string; filename: string }[];
    return list.some(({ label, filename }) => label === "share" && !filename.startsWith("disconnected"));
  });
}

test("added once, however often and by whomever it is asked for; it takes connections, one after the other", async (t) => {
  const { vm, spec } = await startPaused(t);
  const paths = await Promise.all([vm.openSharePort(deadline), vm.openSharePort(deadline)]);
  paths.push(await vm.openSharePort(deadline));
  vm.release();
  t.deepEqual((await serialDevices(spec)).sort(), ["serial0", "serial1", "share0"]);

  const other = await adopted(t, spec);
  paths.push(await other.openSharePort(deadline));
  other.release();
  t.is(new Set(paths).size, 1, "all of them are told the same socket");
  t.deepEqual((await serialDevices(spec)).sort(), ["serial0", "serial1", "share0"]);

  t.false(await portInUse(spec));
  for (let share = 0; share < 2; share++) {
    const socket = connect(paths[0] ?? "");
    await once(socket, "connect");
    t.true(await portInUse(spec));
    socket.destroy();
  }
});

test("a server that died between controller and port: the next one adds what is missing", async (t) => {
  const { vm, spec } = await startPaused(t);
  vm.release();
  const controller = { driver: "virtio-serial-pci", id: "serial1", "disable-legacy": "on", max_ports: 2 };
  await withQmp(spec, (qmp) => qmp.execute("device_add", controller, deadline));
  const other = await adopted(t, spec);
  await other.openSharePort(deadline);
  other.release();
  t.deepEqual((await serialDevices(spec)).sort(), ["serial0", "serial1", "share0"]);
});

test("without a VM there is no port", async (t) => {
  const { vm, spec } = await startPaused(t);
  await backend().destroy(spec, deadline);
  await vm.exited;
  const err = await t.throwsAsync(vm.openSharePort(5_000));
  t.true(hasCode(err, "not_found") || hasCode(err, "unavailable"), String(err));
});
