import { createHash, randomBytes } from "node:crypto";
import { mkdir, readdir, rm, statfs } from "node:fs/promises";
import { join } from "node:path";
import { errno, PodvmError } from "../../host/errors.js";

/**
 * Folders of the store, under <stateDir>/images:
 *
 *   layers/<digest>.tar .entries .json   a layer by diffID; the .json comes last: without it the others are garbage
 *   images/<digest>.erofs .json          an image by id; likewise. Beside it .whole, where one was asked for
 *   names/names.json                     which tag and digest references mean which image
 *   tmp/<random>/                        work in progress; emptied at start
 */
export class StoreFiles {
  readonly layers: string;
  readonly images: string;
  readonly names: string;
  private readonly tmp: string;

  constructor(readonly root: string) {
    this.layers = join(root, "layers");
    this.images = join(root, "images");
    this.names = join(root, "names");
    this.tmp = join(root, "tmp");
  }

  async prepare(): Promise<void> {
    for (const folder of [this.root, this.layers, this.images, this.names, this.tmp]) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
    }
    // What is in it, not the folder itself: on a full disk, where the server must start too, it could not be made again.
    for (const left of await readdir(this.tmp)) await rm(join(this.tmp, left), { recursive: true, force: true });
  }

  /** Gives `work` a folder that is gone when it has settled. */
  async inWorkFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
    const folder = join(this.tmp, randomBytes(8).toString("hex"));
    await mkdir(folder, { mode: 0o700 });
    try {
      return await work(folder);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  }

  layerTar(diffId: string): string {
    return join(this.layers, `${fileName(diffId)}.tar`);
  }

  layerEntries(diffId: string): string {
    return join(this.layers, `${fileName(diffId)}.entries`);
  }

  imageIndex(imageId: string): string {
    return join(this.images, `${fileName(imageId)}.erofs`);
  }

  /** All of an image's device as one file; made by those who run pods without a VM. */
  imageWhole(imageId: string): string {
    return join(this.images, `${fileName(imageId)}.whole`);
  }

  /** Removes files of a folder whose name, without its last suffix, is not in `keep`. @returns their names */
  async sweep(folder: string, keep: ReadonlySet<string>): Promise<string[]> {
    const swept: string[] = [];
    for (const name of await readdir(folder)) {
      if (keep.has(name.replace(/\.[a-z]+$/, ""))) continue;
      await rm(join(folder, name), { recursive: true, force: true });
      swept.push(name);
    }
    return swept;
  }

  /** Throws resource_exhausted unless `bytes` fit and `keepFree` are left. */
  async checkSpace(bytes: number, keepFree: number, what: string): Promise<void> {
    const { bavail, bsize } = await statfs(this.root);
    const free = bavail * bsize;
    if (free - keepFree >= bytes) return;
    throw new PodvmError(
      "resource_exhausted",
      `${what} needs at least ${mib(bytes)} MiB; ${this.root} has ${mib(free)} MiB free, of which ${mib(keepFree)} are kept`,
    );
  }
}

/** sha256:ab… → sha256-ab… */
export function fileName(digest: string): string {
  return digest.replace(":", "-");
}

export function sha256(data: string | Buffer): string {
  return `sha256:${createHash("sha256").update(data).digest("hex")}`;
}

/** A full disk as what it is; everything else as it came. */
export function spaceError(err: unknown, root: string): unknown {
  const code = errno(err);
  if (code !== "ENOSPC" && code !== "EDQUOT") return err;
  return new PodvmError("resource_exhausted", `no space left for images in ${root}; remove images or grow the disk`, {
    cause: err,
  });
}

function mib(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
