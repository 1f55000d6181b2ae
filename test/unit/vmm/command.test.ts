import test from "ava";
import { qemuArguments } from "../../../src/vmm/qemu/command.js";
import type { VmSpec } from "../../../src/vmm/vmm.js";

const spec: VmSpec = {
  id: "0123456789abcdef".repeat(4),
  dir: "/s/vm",
  runDir: "/r/vm",
  uid: 1000,
  cgroup: "/podvm/a",
  memoryMib: 192,
  vcpus: 1,
  guest: "/g",
  bundle: "/b",
  disks: [],
};
const guest = { kernel: "/g/vmlinux", initrd: "/g/initrd", cmdline: "quiet" };
const build = (change: Partial<VmSpec> = {}, accelerator: "kvm" | "tcg" = "tcg", console = false) =>
  qemuArguments({ spec: { ...spec, ...change }, guest, accelerator, console });
/** Values of an option, in order. */
const values = (args: string[], option: string) =>
  args.flatMap((arg, i) => (arg === option ? [args[i + 1] ?? ""] : []));

test("every system call filter is on, and nothing of the defaults", (t) => {
  const args = build();
  t.deepEqual(values(args, "-sandbox"), ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
  for (const option of ["-nodefaults", "-no-user-config", "-no-reboot"]) t.true(args.includes(option), option);
  t.deepEqual(values(args, "-display"), ["none"]);
});

test("no argument names a socket, tap or other path that the VMM would open itself", (t) => {
  const args = build({ network: { netns: "/run/netns/a", tap: "tap0", mac: "02:00:00:00:00:01", mtu: 1450 } });
  for (const chardev of values(args, "-chardev")) t.regex(chardev, /^socket,id=\w+,fd=\d,server=on,wait=off$/);
  t.deepEqual(values(args, "-netdev"), ["tap,id=net0,fd=5,vhost=off"]);
  t.false(args.some((arg) => arg.includes("tap0") || arg.includes("/run/netns")));
});

test("TCG gets one thread per CPU, a small code buffer and no string instructions", (t) => {
  t.deepEqual(values(build(), "-accel"), ["tcg,thread=single,tb-size=32"]);
  t.deepEqual(values(build({ vcpus: 2 }), "-accel"), ["tcg,thread=multi,tb-size=32"]);
  t.deepEqual(values(build(), "-cpu"), ["max,-erms,-fsrm,-fzrm,-fsrs"]);
});

test("the machine has no timer that wakes an idle VM, and under TCG none to calibrate against", (t) => {
  t.regex(values(build(), "-M")[0] ?? "", /^pc,.*hpet=off.*,pit=off/);
  t.notRegex(values(build({}, "kvm"), "-M")[0] ?? "", /pit=off/);
});

test("KVM gets the host's CPU", (t) => {
  t.deepEqual(values(build({}, "kvm"), "-accel"), ["kvm"]);
  t.deepEqual(values(build({}, "kvm"), "-cpu"), ["host"]);
});

test("memory and CPUs are exactly those of the spec", (t) => {
  const args = build({ memoryMib: 300, vcpus: 3 });
  t.deepEqual(values(args, "-m"), ["size=300M"]);
  t.true(values(args, "-object")[0]?.includes(",size=300M,"));
  t.true(values(args, "-smp")[0]?.startsWith("cpus=3,"));
});

test("with room to grow the VM begins as without, in memory and CPUs", (t) => {
  const room = { memoryMib: 300, vcpus: 1, maxMemoryMib: 4096, maxVcpus: 4 };
  t.deepEqual(values(build(room), "-m"), ["size=300M,maxmem=4096M"]);
  t.deepEqual(values(build(room, "kvm"), "-smp"), ["cpus=1,maxcpus=4,sockets=1,cores=4,threads=1"]);
  t.deepEqual(values(build(room, "kvm"), "-append"), ["quiet"]);
  // Under TCG Linux takes no CPUs that come later: all are there, and it starts as many as it is told.
  t.deepEqual(values(build(room), "-smp"), ["cpus=4,sockets=1,cores=4,threads=1"]);
  t.deepEqual(values(build(room), "-append"), ["quiet mitigations=off maxcpus=1"]);
  t.deepEqual(values(build(room), "-accel"), ["tcg,thread=single,tb-size=32"]);
  const full = { memoryMib: 300, vcpus: 2, maxMemoryMib: 300, maxVcpus: 2 };
  t.deepEqual(values(build(full), "-m"), ["size=300M"]);
  t.deepEqual(values(build(full), "-append"), ["quiet mitigations=off"]);
});

test("the NIC has the pod's address and MTU; without network there is none", (t) => {
  const network = { netns: "/n", tap: "tap0", mac: "02:00:00:00:00:01", mtu: 1450 };
  const nic = values(build({ network }), "-device").find((device) => device.startsWith("virtio-net-pci"));
  t.true(nic?.includes("mac=02:00:00:00:00:01") && nic.includes("host_mtu=1450") && nic.includes("romfile=,"));
  t.false(build().join(" ").includes("virtio-net"));
});

test("a hardware address that would add options is refused", (t) => {
  const network = { netns: "/n", tap: "tap0", mac: "02:00:00:00:00:01,romfile=/x", mtu: 1450 };
  t.throws(() => build({ network }), { message: /NIC: mac/ });
});

test("disks come in the order of the spec, images read-only", (t) => {
  const args = build({
    disks: [
      { serial: "scratch", source: { kind: "raw", path: "/s/vm/scratch.ext4", readOnly: false } },
      { serial: "img-1", source: { kind: "image", image: { imageId: "i", extents: [{ path: "/x", bytes: 512 }] } } },
    ],
  });
  const nodes = values(args, "-blockdev").map((json) => JSON.parse(json));
  t.deepEqual(nodes, [
    {
      driver: "raw",
      "node-name": "disk-scratch",
      "read-only": false,
      discard: "unmap",
      file: { driver: "file", filename: "/s/vm/disks/scratch.raw", "read-only": false, discard: "unmap" },
    },
    {
      driver: "vmdk",
      "node-name": "disk-img-1",
      "read-only": true,
      "auto-read-only": false,
      file: { driver: "file", filename: "/s/vm/disks/img-1.vmdk", "read-only": true },
    },
  ]);
  const devices = values(args, "-device")
    .filter((device) => device.startsWith("{"))
    .map((json) => JSON.parse(json));
  t.deepEqual(
    devices.map(({ serial, drive, bus, lun }) => [serial, drive, bus, lun]),
    [
      ["scratch", "disk-scratch", "scsi0.0", 1],
      ["img-1", "disk-img-1", "scsi0.0", 2],
    ],
  );
});

test("the kernel's command line is the guest image's; TCG and the console only add to it", (t) => {
  t.deepEqual(values(build({}, "kvm"), "-append"), ["quiet"]);
  t.deepEqual(values(build(), "-append"), ["quiet mitigations=off"]);
  t.false(build().includes("-serial"));
  const debug = build({}, "tcg", true);
  t.regex(values(debug, "-append")[0] ?? "", /^quiet .*console=ttyS0/);
  t.deepEqual(values(debug, "-serial"), ["chardev:con"]);
});
