/**
 * Disks of a VM: their files, hard-linked into the VM's own folder (the VMM sees no other), and their QMP objects. Everything
 * is named after the serial, so that each step can be found again, repeated or undone by a server that knows nothing else.
 */
import { chown, link, mkdir, readdir, rm, stat, writeFile } from "node:fs/promises";
import { errno, PodvmError } from "../../host/errors.js";
import { run } from "../../host/run.js";
import type { DiskSpec, VmSpec } from "../vmm.js";
import { diskFolder } from "./paths.js";
import { vmdkDescriptor } from "./vmdk.js";

export const SCSI_BUS = "scsi0.0";
export const nodeName = (serial: string) => `disk-${serial}`;
export const deviceId = (serial: string) => `scsi-${serial}`;

export function checkSerial(serial: string): void {
  if (!/^[a-z0-9-]{1,20}$/.test(serial)) {
    throw new PodvmError("invalid_argument", `disk serial ${JSON.stringify(serial)}: want 1 to 20 of [a-z0-9-]`);
  }
}

/** Links the disk's files into the VM's folder. Idempotent; after a rejection none of them is left. */
export async function placeDisk(spec: VmSpec, disk: DiskSpec): Promise<void> {
  checkSerial(disk.serial);
  await mkdir(diskFolder(spec), { recursive: true });
  try {
    if (disk.source.kind === "raw") {
      await linkInto(disk.source.path, rawPath(spec, disk.serial));
      return;
    }
    if (disk.source.kind === "device") {
      await makeNode(spec, disk.serial, disk.source);
      return;
    }
    const { imageId, extents } = disk.source.image;
    for (const [i, { path, bytes }] of extents.entries()) {
      const { size } = await stat(path);
      if (size < bytes || bytes <= 0 || bytes % 512 !== 0) {
        throw new PodvmError(
          "internal",
          `image ${imageId}: extent ${path} holds ${size} bytes, ${bytes} wanted: pull it again`,
        );
      }
      await linkInto(path, `${diskFolder(spec)}/${extentFile(disk.serial, i)}`);
    }
    const descriptor = vmdkDescriptor(extents.map(({ bytes }, i) => ({ file: extentFile(disk.serial, i), bytes })));
    await writeFile(vmdkPath(spec, disk.serial), descriptor, { mode: 0o444 });
  } catch (err) {
    await removeDisk(spec, disk.serial);
    throw err;
  }
}

/** Removes what placeDisk made. OK where there is nothing. */
export async function removeDisk(spec: VmSpec, serial: string): Promise<void> {
  let names: string[];
  try {
    names = await readdir(diskFolder(spec));
  } catch (err) {
    if (errno(err) === "ENOENT") return;
    throw err;
  }
  // A serial holds no dot, so what stands before the first one is the whole of it.
  const mine = names.filter((name) => name.slice(0, name.indexOf(".")) === serial);
  await Promise.all(mine.map((name) => rm(`${diskFolder(spec)}/${name}`, { force: true })));
}

/** Arguments of blockdev-add, or of -blockdev. */
export function blockNode(spec: VmSpec, disk: DiskSpec): Record<string, unknown> {
  const name = { "node-name": nodeName(disk.serial) };
  if (disk.source.kind === "image") {
    const file = { driver: "file", filename: vmdkPath(spec, disk.serial), "read-only": true };
    return { driver: "vmdk", ...name, "read-only": true, "auto-read-only": false, file };
  }
  const { readOnly } = disk.source;
  const common = { "read-only": readOnly, discard: readOnly ? "ignore" : "unmap" };
  // Discard on both nodes: the upper one passes it on, the lower one punches the hole.
  return {
    driver: "raw",
    ...name,
    ...common,
    file:
      disk.source.kind === "device"
        ? { driver: "host_device", filename: nodePath(spec, disk.serial), ...common }
        : { driver: "file", filename: rawPath(spec, disk.serial), ...common },
  };
}

/**
 * Where the first disk of a VM lies. Not at 0: Linux takes an event for LUN 0 as a request to scan the whole target, which it refuses where
 * scanning is left to the guest's own init (scsi_mod.scan=manual).
 */
export const FIRST_LUN = 1;
/** What a virtio-scsi controller can address. */
export const LAST_LUN = 16_383;

/** Arguments of device_add, or of -device. All disks are LUNs of target 0. */
export function blockDevice(disk: DiskSpec, lun: number): Record<string, unknown> {
  const serial = disk.serial;
  return { driver: "scsi-hd", id: deviceId(serial), bus: SCSI_BUS, "scsi-id": 0, lun, drive: nodeName(serial), serial };
}

const rawPath = (spec: VmSpec, serial: string) => `${diskFolder(spec)}/${serial}.raw`;
const nodePath = (spec: VmSpec, serial: string) => `${diskFolder(spec)}/${serial}.dev`;
const vmdkPath = (spec: VmSpec, serial: string) => `${diskFolder(spec)}/${serial}.vmdk`;
const extentFile = (serial: string, i: number) => `${serial}.${i}`;

/** A node for the VMM's user alone; the original keeps its owner. */
async function makeNode(
  spec: VmSpec,
  serial: string,
  { major, minor, readOnly }: { major: number; minor: number; readOnly: boolean },
): Promise<void> {
  const path = nodePath(spec, serial);
  await rm(path, { force: true });
  await run(["mknod", "-m", readOnly ? "0400" : "0600", path, "b", `${major}`, `${minor}`]);
  await chown(path, spec.uid, spec.uid);
}

async function linkInto(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (err) {
    if (errno(err) === "EEXIST") {
      const [a, b] = await Promise.all([stat(from), stat(to)]);
      if (a.ino === b.ino && a.dev === b.dev) return;
      throw new PodvmError("already_exists", `${to} is there already and is another file than ${from}`);
    }
    if (errno(err) === "EXDEV") {
      const hint = "images, disks and VMs must be on one file system: set the state folder accordingly";
      throw new PodvmError("failed_precondition", `cannot link ${from} to ${to}: ${hint}`, { cause: err });
    }
    throw err;
  }
}
