/** QEMU's command line. Pure: everything that it depends on is an argument. */
import { PodvmError } from "../../host/errors.js";
import type { VmSpec } from "../vmm.js";
import type { Accelerator } from "./accelerator.js";
import { blockDevice, blockNode, FIRST_LUN } from "./disks.js";
import { SHARE_CHARDEV } from "./share-port.js";

/** Numbers of the descriptors that podvm-launch passes on. */
export const FD = { qmp: 3, agent: 4, tap: 5, console: 6, share: 7 } as const;

/** What the guest image's manifest.json says of booting it. */
export interface GuestBoot {
  kernel: string;
  initrd: string;
  cmdline: string;
}

export interface CommandOptions {
  spec: VmSpec;
  guest: GuestBoot;
  accelerator: Accelerator;
  /** The guest's kernel log on a serial port, passed on to standard error. Costs boot time. */
  console: boolean;
}

/** argv[1] and on. */
export function qemuArguments({ spec, guest, accelerator, console }: CommandOptions): string[] {
  return [
    ["-name", `podvm-${spec.id.slice(0, 12)}`],
    ["-nodefaults", "-no-user-config", "-no-reboot"],
    ["-display", "none"],
    ["-L", `${spec.bundle}/share/qemu`],
    // spawn=deny: no fork, no exec; resourcecontrol=deny: no affinity or scheduler changes.
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    machine(spec, accelerator),
    ["-kernel", guest.kernel, "-initrd", guest.initrd, "-append", cmdline(spec, guest.cmdline, accelerator, console)],
    ["-chardev", `socket,id=qmp,fd=${FD.qmp},server=on,wait=off`, "-mon", "chardev=qmp,mode=control"],
    // A clone of a template gets another generation id, and the guest's kernel reseeds.
    ["-device", "vmgenid,id=gen0,guid=auto"],
    agentPort(),
    // Where the FUSE relay connects; its port is added to VMs that need it (share-port.ts): each costs the guest 8 MB for its queues.
    ["-chardev", `socket,id=${SHARE_CHARDEV},fd=${FD.share},server=on,wait=off`],
    // Every disk is a LUN of this one controller: hot-added faster than PCI devices, and no slots to run out of.
    ["-device", "virtio-scsi-pci,id=scsi0,addr=3,disable-legacy=on,num_queues=1"],
    network(spec),
    spec.disks.flatMap((disk, i) => [
      "-blockdev",
      JSON.stringify(blockNode(spec, disk)),
      "-device",
      JSON.stringify(blockDevice(disk, FIRST_LUN + i)),
    ]),
    // Node gives a child a socket as standard error.
    console ? ["-chardev", `socket,id=con,fd=${FD.console}`, "-serial", "chardev:con"] : [],
  ].flat();
}

function machine(spec: VmSpec, accelerator: Accelerator): string[] {
  const off = ["hpet", "vmport", "usb", "graphics", "sata", "smbus", "i8042", "dump-guest-core", "mem-merge"];
  // Calibrating against an emulated PIT takes a tenth of the boot under TCG; the ACPI timer, and its refinement later, do as well.
  if (accelerator === "tcg") off.push("pit");
  return [
    // pc boots with less work than q35 and hot-plugs without root ports; the HPET alone wakes an idle VM 250 times a second.
    ...["-M", `pc,memory-backend=mem0,${off.map((name) => `${name}=off`).join(",")}`],
    ...["-global", "PIIX4_PM.disable_s3=1", "-global", "PIIX4_PM.disable_s4=1"],
    ...acceleration(spec, accelerator),
    ...["-m", memory(spec)],
    // A backend object and not plain -m: a template's memory is the same object with a file behind it.
    ...["-object", `memory-backend-ram,id=mem0,size=${spec.memoryMib}M,share=off,merge=off,dump=off`],
    ...["-smp", cpus(spec, accelerator)],
    ...["-rtc", "base=utc,clock=host,driftfix=none"],
  ];
}

/** Room for a virtio-mem device: no slots, so no ACPI memory devices and no NUMA node that would come with them. */
function memory({ memoryMib, maxMemoryMib = 0 }: VmSpec): string {
  return `size=${memoryMib}M${maxMemoryMib > memoryMib ? `,maxmem=${maxMemoryMib}M` : ""}`;
}

/**
 * With room for more. Linux does not know TCG for a hypervisor, and of what it takes for hardware it does not believe that CPUs can be added: under
 * TCG all are there from the beginning, and the kernel is told how many to start (see cmdline). The others wait, at no cost.
 */
function cpus({ vcpus, maxVcpus = 0 }: VmSpec, accelerator: Accelerator): string {
  const most = Math.max(vcpus, maxVcpus);
  const count = accelerator === "tcg" || most === vcpus ? `cpus=${most}` : `cpus=${vcpus},maxcpus=${most}`;
  return `${count},sockets=1,cores=${most},threads=1`;
}

function acceleration(spec: VmSpec, accelerator: Accelerator): string[] {
  if (accelerator === "kvm") return ["-accel", "kvm", "-cpu", "host"];
  const threads = spec.vcpus > 1 ? "multi" : "single";
  // erms and its like make the guest use string instructions, which TCG runs byte by byte: a quarter more CPU time.
  return ["-accel", `tcg,thread=${threads},tb-size=32`, "-cpu", "max,-erms,-fsrm,-fzrm,-fsrs"];
}

function agentPort(): string[] {
  return [
    ...["-chardev", `socket,id=agent,fd=${FD.agent},server=on,wait=off`],
    ...["-device", "virtio-serial-pci,id=serial0,addr=2,disable-legacy=on,max_ports=2"],
    ...["-device", "virtserialport,bus=serial0.0,nr=1,chardev=agent,name=podvm.agent"],
  ];
}

function network({ network }: VmSpec): string[] {
  if (!network) return [];
  // A CNI plugin named it, and a comma would begin another option.
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(network.mac) || !Number.isInteger(network.mtu)) {
    throw new PodvmError("invalid_argument", `NIC: mac ${JSON.stringify(network.mac)}, mtu ${network.mtu}`);
  }
  return [
    ...["-netdev", `tap,id=net0,fd=${FD.tap},vhost=off`],
    "-device",
    `virtio-net-pci,id=nic0,netdev=net0,addr=4,disable-legacy=on,romfile=,mac=${network.mac},host_mtu=${network.mtu}`,
  ];
}

/** Later words win. */
function cmdline({ vcpus, maxVcpus = 0 }: VmSpec, base: string, accelerator: Accelerator, console: boolean): string {
  const words = [base];
  // Against speculation of a processor that an emulated one does not have; its return trampolines alone cost a fifth of the guest's time.
  if (accelerator === "tcg") words.push("mitigations=off");
  if (accelerator === "tcg" && maxVcpus > vcpus) words.push(`maxcpus=${vcpus}`);
  if (console) words.push("console=ttyS0 8250.nr_uarts=1 loglevel=7 ignore_loglevel");
  return words.join(" ");
}
