/**
 * Images for pods without a VM: the same bytes that a VM gets as a disk, as one file, mounted read-only through a loop device. One mount per
 * image, shared by all pods; the links in the pods' folders say who uses it, so that a server that knows nothing else can tell.
 */
import { randomBytes } from "node:crypto";
import { mkdir, open, readdir, readlink, rename, rm, rmdir, stat, symlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { errno, messageOf, PodvmError } from "../../host/errors.js";
import { KeyedLock } from "../../host/keyed-lock.js";
import { mountsBelow, unmountBelow } from "../../host/mounts.js";
import { run } from "../../host/run.js";
import type { ImageDevice } from "../../image/image.js";
import type { VmSpec } from "../vmm.js";
import { disksFolder } from "./paths.js";

const PIECE = 1 << 20;

export class HostImages {
  readonly #root: string;
  readonly #vms: string;
  readonly #lock = new KeyedLock();

  /** @param stateDir holds the mount points (`host-images`) and the folders of the pods (`vms`) */
  constructor(stateDir: string) {
    this.#root = join(stateDir, "host-images");
    this.#vms = join(stateDir, "vms");
  }

  /** Mounts the image, where it is not yet, and puts the pod's link to it. Idempotent. */
  async attach(spec: VmSpec, serial: string, image: ImageDevice, deadlineMs: number): Promise<void> {
    const folder = join(this.#root, image.imageId.replace(/[^a-z0-9]/g, "-"));
    const link = join(disksFolder(spec), serial);
    await this.#lock.run("", async () => {
      await mkdir(disksFolder(spec), { recursive: true });
      // The link first: a server that dies in between leaves a link to nothing, and never a mount that nobody finds.
      await symlink(folder, link).catch((err) => {
        if (errno(err) !== "EEXIST") throw err;
      });
      if ((await mountsBelow(folder)).length > 0) return;
      const file = await wholeFile(image);
      await mkdir(folder, { recursive: true });
      await mountImage(file, folder, deadlineMs);
    });
  }

  /** Unmounts images that no pod has a link to. */
  async collect(deadlineMs: number): Promise<void> {
    await this.#lock.run("", async () => {
      const mounted = await names(this.#root);
      if (mounted.length === 0) return;
      const used = await this.#used();
      for (const name of mounted) {
        if (used.has(name)) continue;
        await unmountBelow(join(this.#root, name), deadlineMs);
        await rmdir(join(this.#root, name));
      }
      await rmdir(this.#root).catch((err) => {
        if (errno(err) !== "ENOTEMPTY") throw err;
      });
    });
  }

  async #used(): Promise<Set<string>> {
    const used = new Set<string>();
    for (const id of await names(this.#vms)) {
      const disks = join(this.#vms, id, "disks");
      for (const serial of await names(disks)) {
        const target = await readlink(join(disks, serial)).catch(() => undefined); // a VM's disks are files
        if (target?.startsWith(`${this.#root}/`)) used.add(basename(target));
      }
    }
    return used;
  }
}

/** The image as one file, made once; it is the store's, and goes with the image. */
async function wholeFile({ imageId, extents, wholePath: path }: ImageDevice): Promise<string> {
  const index = extents[0];
  if (!index || !path)
    throw new PodvmError("internal", `image ${imageId} has no extents, or no place for them as one file`);
  if (extents.length === 1) return index.path;
  const wanted = extents.reduce((sum, { bytes }) => sum + bytes, 0);
  const found = await stat(path).catch(() => undefined);
  if (found?.size === wanted) return path;
  const early = `${path}.${randomBytes(4).toString("hex")}.tmp`;
  try {
    await concatenate(extents, early);
    await rename(early, path);
  } catch (err) {
    await rm(early, { force: true });
    if (errno(err) !== "ENOSPC" && errno(err) !== "EDQUOT") throw err;
    throw new PodvmError(
      "resource_exhausted",
      `no space for ${wanted} bytes of image ${imageId} as one file: ${path}`,
      {
        cause: err,
      },
    );
  }
  return path;
}

/** Each extent up to its length. Not synced: after a crash the size tells a part from the whole, or the file is made again. */
async function concatenate(extents: ImageDevice["extents"], path: string): Promise<void> {
  const out = await open(path, "wx", 0o444);
  try {
    const buffer = Buffer.allocUnsafe(PIECE);
    for (const extent of extents) {
      const from = await open(extent.path, "r");
      try {
        for (let at = 0; at < extent.bytes; ) {
          const { bytesRead } = await from.read(buffer, 0, Math.min(PIECE, extent.bytes - at), at);
          if (bytesRead === 0) throw new PodvmError("internal", `${extent.path} is shorter than ${extent.bytes} bytes`);
          await out.write(buffer, 0, bytesRead);
          at += bytesRead;
        }
      } finally {
        await from.close();
      }
    }
    await out.datasync();
  } finally {
    await out.close();
  }
}

async function mountImage(file: string, folder: string, deadlineMs: number): Promise<void> {
  try {
    await run(["mount", "-t", "erofs", "-o", "loop,ro,nodev", "--", file, folder], { deadlineMs });
  } catch (err) {
    throw new PodvmError(
      "failed_precondition",
      `cannot mount an image on this host: ${messageOf(err)}. Pods without a VM need a kernel with EROFS (CONFIG_EROFS_FS) and loop devices ` +
        "(CONFIG_BLK_DEV_LOOP): try `modprobe -a erofs loop`",
      { cause: err },
    );
  }
}

async function names(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (err) {
    if (errno(err) === "ENOENT" || errno(err) === "ENOTDIR") return [];
    throw err;
  }
}
