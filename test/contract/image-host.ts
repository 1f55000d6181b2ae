import { randomBytes } from "node:crypto";
import { readdirSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ExecutionContext } from "ava";
import { silentLogger } from "../../src/host/log.js";
import type { ImageStore } from "../../src/image/image.js";
import { createImageStore, type ImageStoreOptions } from "../../src/image/store.js";
import { testAssets } from "../support/registry-push.js";
import { makeTar } from "../support/tar.js";

/** Few tries and short waits, but long enough for a busy machine. */
export const quick = { connectMs: 5_000, stallMs: 10_000, attempts: 3, keepFreeBytes: 0 };

export interface TestStore {
  store: ImageStore;
  stateDir: string;
  /** Paths of all files in the store, sorted, relative to it. */
  files(): string[];
}

export async function newStore(t: ExecutionContext, options: Partial<ImageStoreOptions> = {}): Promise<TestStore> {
  const stateDir = options.stateDir ?? (await mkdtemp(join(tmpdir(), "podvm-images-")));
  if (options.stateDir === undefined) t.teardown(() => rm(stateDir, { recursive: true, force: true }));
  const store = createImageStore({
    assets: testAssets(),
    logger: silentLogger,
    ...options,
    stateDir,
    limits: { ...quick, ...options.limits },
  });
  await store.open();
  return { store, stateDir, files: () => filesIn(join(stateDir, "images")) };
}

export function filesIn(folder: string): string[] {
  const found = readdirSync(folder, { recursive: true, withFileTypes: true });
  return found
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
}

/** A layer of one file with random bytes, which no compression makes small. */
export function randomLayer(bytes: number, name = `f-${randomBytes(4).toString("hex")}`): Buffer {
  return makeTar([
    { name: "./", mode: 0o755 },
    { name, data: randomBytes(bytes) },
  ]);
}

let counter = 0;
export function newRepository(): string {
  counter += 1;
  return `test/r${process.pid}-${counter}`;
}
