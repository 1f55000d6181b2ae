/** Devices of a container: block devices of the host become disks of the VM, a few harmless ones are the guest's own. */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { errno, PodvmError } from "../host/errors.js";
import type { DeviceConfig } from "../pod/types.js";
import type { MountInfo } from "./mountinfo.js";
import { lookAt } from "./source.js";
import type { VolumeSpec } from "./types.js";

export type DeviceChoice =
  | { kind: "guest"; path: string }
  | { kind: "block"; key: string; spec: Extract<VolumeSpec, { kind: "block" }> };

/** By number: what they are called on the host does not matter. The guest's has nothing of the host's behind it. */
const GUEST_DEVICES: Record<string, string> = {
  "1:3": "/dev/null",
  "1:5": "/dev/zero",
  "1:7": "/dev/full",
  "1:8": "/dev/random",
  "1:9": "/dev/urandom",
  "10:200": "/dev/net/tun",
  "10:229": "/dev/fuse",
};

/** Rejects with failed_precondition for a disk that the host uses, and for devices that a virtual machine cannot be given. */
export async function classifyDevice(device: DeviceConfig, mounts: readonly MountInfo[]): Promise<DeviceChoice> {
  const source = await lookAt(device.hostPath, mounts);
  const number = `${source.major}:${source.minor}`;
  if (source.type === "char") {
    const path = GUEST_DEVICES[number];
    if (path) return { kind: "guest", path };
    throw new PodvmError(
      "failed_precondition",
      `device ${device.hostPath}: a character device of the host cannot be given to a virtual machine; only ${Object.values(GUEST_DEVICES).join(", ")} are there`,
    );
  }
  if (source.type !== "block") {
    throw new PodvmError("invalid_argument", `device ${device.hostPath}: wanted a device, found a ${source.type}`);
  }
  const readOnly = !device.permissions.includes("w");
  await refuseUsed(source.path, readOnly);
  const key = `block:${number}:${readOnly ? "ro" : "rw"}`;
  const serial = `b-${createHash("sha256").update(key).digest("hex").slice(0, 16)}`;
  return { kind: "block", key, spec: { kind: "block", major: source.major, minor: source.minor, readOnly, serial } };
}

/**
 * Two kernels that write one file system destroy it. open(2): O_EXCL without O_CREAT on a block device "fails with the error EBUSY" if it "is in
 * use by the system (e.g., mounted)"; that covers its partitions, device mapper, md and swap.
 */
async function refuseUsed(path: string, readOnly: boolean): Promise<void> {
  const access = readOnly ? constants.O_RDONLY : constants.O_RDWR;
  try {
    const file = await open(path, access | constants.O_EXCL | constants.O_NONBLOCK);
    await file.close();
  } catch (err) {
    const code = errno(err);
    const why =
      code === "EBUSY"
        ? "the host uses it (mounted, swap, LVM, RAID): unmount it first"
        : `it cannot be opened: ${code}`;
    throw new PodvmError("failed_precondition", `device ${path}: ${why}`, { cause: err });
  }
}
