/** A pod's writable disk: the upper layers of its containers and what it keeps on no volume. It goes with the VM. */
import { randomBytes } from "node:crypto";
import { chown, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { errno, messageOf, PodvmError } from "../host/errors.js";
import { run } from "../host/run.js";

export interface ScratchOptions {
  /** Path of mkfs.ext4. */
  mkfs: string;
  /** Folder of the VM; made where it is not there. */
  dir: string;
  /** Size that the guest sees; the file is sparse. */
  sizeGib: number;
  /** Owner: the VMM's user. */
  uid: number;
}

/**
 * Written out so that no mke2fs.conf of this machine changes them. No journal: the disk never outlives its VM. No resize_inode: it
 * would be 4 MB of zeroes on every disk, and 64bit file systems grow without it.
 */
const FEATURES = [
  "none",
  ...["ext_attr", "dir_index", "filetype", "extent", "64bit", "flex_bg", "sparse_super", "large_file"],
  ...["huge_file", "dir_nlink", "extra_isize", "metadata_csum"],
].join(",");

/** mkfs takes 10 ms, and the file 260 KB: a template to copy from would win nothing. */
const MKFS_MS = 20_000;

/**
 * Makes `dir`/scratch.ext4, a sparse raw image that holds an empty ext4 file system, mode 0600, and answers its path. Idempotent: one
 * that is there whole is left as it is. After a rejection none is left.
 */
export async function createScratch({ mkfs, dir, sizeGib, uid }: ScratchOptions): Promise<string> {
  if (!Number.isInteger(sizeGib) || sizeGib < 1 || sizeGib > 16_384) {
    throw new PodvmError("invalid_argument", `scratch disk of ${sizeGib} GiB: want a whole number from 1 to 16384`);
  }
  const path = `${dir}/scratch.ext4`;
  if (await isThere(path)) return path;
  await mkdir(dir, { recursive: true, mode: 0o755 });
  const temporary = `${path}.${randomBytes(4).toString("hex")}.tmp`;
  try {
    const file = await open(temporary, "wx", 0o600);
    try {
      await file.truncate(sizeGib * 2 ** 30);
    } finally {
      await file.close();
    }
    // assume_storage_prezeroed: a new sparse file is all zeroes, so nothing need be written to say so.
    const extended = "assume_storage_prezeroed=1,nodiscard,root_owner=0:0";
    await run(
      [
        mkfs,
        "-q",
        "-F",
        "-O",
        FEATURES,
        "-E",
        extended,
        "-m",
        "0",
        "-b",
        "4096",
        "-I",
        "256",
        "-i",
        "16384",
        temporary,
      ],
      {
        deadlineMs: MKFS_MS,
        env: { MKE2FS_CONFIG: "/dev/null" },
      },
    );
    await chown(temporary, uid, uid);
    await rename(temporary, path);
  } catch (err) {
    await rm(temporary, { force: true });
    if (errno(err) === "ENOSPC" || /No space left on device/.test(messageOf(err))) {
      const wanted = `space in ${dir} for the pod's writable disk`;
      throw new PodvmError("resource_exhausted", `wanted ${wanted}, found the file system full; free some`, {
        cause: err,
      });
    }
    throw err;
  }
  return path;
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (err) {
    if (errno(err) === "ENOENT") return false;
    throw err;
  }
}
