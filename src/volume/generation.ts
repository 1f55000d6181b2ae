/**
 * Reads one generation of a synced volume: the whole of a small folder or file, as it was at one moment. The source is bounded and links are never
 * followed; one that changes while it is read is read again.
 */
import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { lstat, open, opendir, readlink } from "node:fs/promises";
import { join } from "node:path";
import type { GenerationEntry } from "../agent/sync-volume.js";
import { sleep } from "../host/deadline.js";
import { errno, PodvmError } from "../host/errors.js";
import { DATA_LINK, presentGeneration } from "./atomic-writer.js";

/** The agent's bounds too (docs/volumes.md). */
export const MAX_ENTRIES = 16_384;
export const MAX_BYTES = 64 << 20;
const MAX_DEPTH = 32;
const ATTEMPTS = 20;
const PAUSE_MS = 25;

export interface Generation {
  /** Equal for equal content, modes and owners. */
  digest: string;
  /** Folders before what is in them. */
  entries: GenerationEntry[];
}

/** Rejects with resource_exhausted where it is too large, failed_precondition where it holds what no volume can be or never rests. */
export async function readGeneration(source: string, singleFile: boolean): Promise<Generation> {
  for (let attempt = 1; ; attempt++) {
    try {
      const entries = singleFile ? [await readSingle(source)] : await readFolder(source);
      return { digest: digestOf(entries), entries };
    } catch (err) {
      if (!(err instanceof Changed) && errno(err) !== "ENOENT") throw err;
      if (!(await lstat(source).catch(() => undefined))) {
        throw new PodvmError("not_found", `${source} is gone`, { cause: err });
      }
      if (attempt >= ATTEMPTS) {
        throw new PodvmError("failed_precondition", `${source} changes whenever it is read: ${ATTEMPTS} attempts`);
      }
      await sleep(PAUSE_MS);
    }
  }
}

/** It was not the same at the end as at the beginning. */
class Changed extends Error {}

interface Budget {
  entries: number;
  bytes: number;
}

async function readSingle(source: string): Promise<GenerationEntry> {
  return readFile(source, "", { entries: 0, bytes: 0 });
}

async function readFolder(source: string): Promise<GenerationEntry[]> {
  const present = await presentGeneration(source);
  const entries: GenerationEntry[] = [];
  await walk(source, "", entries, { entries: 0, bytes: 0 }, (name) => {
    // Of what AtomicWriter keeps for itself only the present generation: others are about to go, or not yet whole.
    return present === undefined || !name.startsWith("..") || name === DATA_LINK || name === present;
  });
  if ((await presentGeneration(source)) !== present) throw new Changed();
  return entries;
}

async function walk(
  folder: string,
  path: string,
  entries: GenerationEntry[],
  budget: Budget,
  wanted: (name: string) => boolean = () => true,
): Promise<void> {
  if (path.split("/").length > MAX_DEPTH) throw tooLarge(folder, `more than ${MAX_DEPTH} folders in each other`);
  const meta = await lstat(folder);
  if (!meta.isDirectory()) throw new Changed();
  entries.push({ path, kind: { type: "directory" }, ...ownerOf(meta) });
  const names: string[] = [];
  for await (const { name } of await opendir(folder)) {
    if (!wanted(name)) continue;
    if (++budget.entries > MAX_ENTRIES) throw tooLarge(folder, `more than ${MAX_ENTRIES} entries`);
    names.push(name);
  }
  for (const name of names.sort()) {
    const full = join(folder, name);
    const inside = path ? `${path}/${name}` : name;
    const found = await lstat(full);
    if (found.isDirectory()) await walk(full, inside, entries, budget);
    else if (found.isSymbolicLink()) {
      entries.push({ path: inside, kind: { type: "symlink", target: await readlink(full) }, ...ownerOf(found) });
    } else entries.push(await readFile(full, inside, budget));
  }
}

async function readFile(full: string, path: string, budget: Budget): Promise<GenerationEntry> {
  const file = await open(full, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch((err) => {
    throw errno(err) === "ELOOP" || errno(err) === "ENXIO" ? notPlain(full) : err;
  });
  try {
    const before = await file.stat({ bigint: true });
    if (!before.isFile()) throw notPlain(full);
    const left = MAX_BYTES - budget.bytes;
    if (before.size > BigInt(left)) throw tooLarge(full, `more than ${MAX_BYTES >> 20} MiB in all`);
    // One byte more than it has: a file that grows meanwhile is noticed, and cannot take more memory than this.
    const buffer = Buffer.alloc(Number(before.size) + 1);
    let length = 0;
    for (let n = -1; n !== 0 && length < buffer.length; length += n) {
      n = (await file.read(buffer, length, buffer.length - length, length)).bytesRead;
    }
    const after = await file.stat({ bigint: true });
    if (BigInt(length) !== before.size || after.mtimeNs !== before.mtimeNs || after.ctimeNs !== before.ctimeNs) {
      throw new Changed();
    }
    budget.bytes += length;
    const data = buffer.subarray(0, length);
    return { path, kind: { type: "file", data }, ...ownerOf(before) };
  } finally {
    await file.close();
  }
}

function ownerOf(meta: { mode: number | bigint; uid: number | bigint; gid: number | bigint }) {
  return { mode: Number(meta.mode) & 0o7777, uid: Number(meta.uid), gid: Number(meta.gid) };
}

function digestOf(entries: readonly GenerationEntry[]): string {
  const hash = createHash("sha256");
  for (const { path, kind, mode, uid, gid } of entries) {
    const content = kind.type === "file" ? kind.data.length : kind.type === "symlink" ? kind.target : "";
    hash.update(`${JSON.stringify([path, kind.type, mode, uid, gid, content])}\n`);
    if (kind.type === "file") hash.update(kind.data);
  }
  return hash.digest("hex");
}

function tooLarge(path: string, why: string): PodvmError {
  return new PodvmError("resource_exhausted", `${path}: too large for a volume that is copied into the guest: ${why}`);
}

function notPlain(path: string): PodvmError {
  const wanted = "wanted files, folders and links in a volume that is copied into the guest";
  return new PodvmError("failed_precondition", `${path}: ${wanted}, found something else`);
}
