/** One generation of a synced volume, read from sources that change, lie and do not fit. */
import { execFileSync } from "node:child_process";
import { chmod, mkdir, mkdtemp, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { sleep } from "../../../src/host/deadline.js";
import { isAtomicWriter, isInGeneration } from "../../../src/volume/atomic-writer.js";
import { type Generation, MAX_BYTES, readGeneration } from "../../../src/volume/generation.js";
import { atomicWrite } from "../../support/kubelet-volumes.js";

async function scratch(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "podvm-generation-"));
  t.teardown(() => rm(dir, { recursive: true }));
  return dir;
}

/** Path → content, target or "/". */
function content({ entries }: Generation): Record<string, string> {
  const text = (kind: Generation["entries"][number]["kind"]) =>
    kind.type === "file" ? kind.data.toString() : kind.type === "symlink" ? `-> ${kind.target}` : "/";
  return Object.fromEntries(entries.map(({ path, kind }) => [path, text(kind)]));
}

test("what AtomicWriter wrote, without what it keeps for itself; folders come before what is in them", async (t) => {
  const dir = join(await scratch(t), "v");
  await atomicWrite(dir, { key: "one", "deep/inner": "x" });
  await symlink("..stale", join(dir, "..data_tmp"));
  await mkdir(join(dir, "..2020_01_01_00_00_00.1"));
  const read = await readGeneration(dir, false);
  const stamp = content(read)["..data"]?.slice(3) ?? "";
  t.deepEqual(content(read), {
    "": "/",
    [stamp]: "/",
    [`${stamp}/deep`]: "/",
    [`${stamp}/deep/inner`]: "x",
    [`${stamp}/key`]: "one",
    "..data": `-> ${stamp}`,
    deep: "-> ..data/deep",
    key: "-> ..data/key",
  });
  const order = read.entries.map(({ path }) => path);
  t.true(order.indexOf(`${stamp}/deep`) < order.indexOf(`${stamp}/deep/inner`));
  t.is(order[0], "");
});

test("the digest tells content, modes and names apart, and nothing else", async (t) => {
  const dir = join(await scratch(t), "f");
  const digest = async () => (await readGeneration(dir, true)).digest;
  await writeFile(dir, "a", { mode: 0o600 });
  const first = await digest();
  await writeFile(dir, "a");
  t.is(await digest(), first);
  await chmod(dir, 0o644);
  const second = await digest();
  t.not(second, first);
  await writeFile(dir, "b");
  t.not(await digest(), second);
});

test("a source that is replaced while it is read is never a mixture", async (t) => {
  const dir = join(await scratch(t), "v");
  const files = (n: number) => Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`k${i}`, `${n}`]));
  await atomicWrite(dir, files(0));
  let writing = true;
  const writer = (async () => {
    for (let n = 1; writing; n++) {
      await atomicWrite(dir, files(n));
      await sleep(n % 200);
    }
  })();
  try {
    for (let i = 0; i < 15; i++) {
      const read = await readGeneration(dir, false).catch((err: Error) => {
        t.regex(err.message, /changes whenever/);
        return undefined;
      });
      if (!read) continue;
      const values = read.entries.flatMap(({ kind }) => (kind.type === "file" ? [kind.data.toString()] : []));
      t.is(values.length, 40);
      t.is(new Set(values).size, 1, "of one generation");
    }
  } finally {
    writing = false;
    await writer;
  }
});

test("links are not followed; pipes and what is too large are refused", async (t) => {
  const dir = await scratch(t);
  await symlink("/etc/passwd", join(dir, "link"));
  t.is(content(await readGeneration(dir, false)).link, "-> /etc/passwd");
  await t.throwsAsync(readGeneration(join(dir, "link"), true), { message: /found something else/ });
  await writeFile(join(dir, "huge"), "");
  await truncate(join(dir, "huge"), MAX_BYTES + 1);
  await t.throwsAsync(readGeneration(dir, false), { message: /too large/ });
  await rm(join(dir, "huge"));
  execFileSync("mkfifo", [join(dir, "pipe")]);
  await t.throwsAsync(readGeneration(dir, false), { message: /found something else/ });
  await rm(join(dir, "pipe"));
  await mkdir(join(dir, ...Array.from({ length: 40 }, () => "d")), { recursive: true });
  await t.throwsAsync(readGeneration(dir, false), { message: /folders in each other/ });
  await t.throwsAsync(readGeneration(join(dir, "none"), true), { message: /gone/ });
});

test("only AtomicWriter's own layout is taken for it", async (t) => {
  const dir = await scratch(t);
  const real = join(dir, "real");
  await atomicWrite(real, { a: "1" });
  t.true(await isAtomicWriter(real));
  t.true(await isInGeneration(join(real, content(await readGeneration(real, false))["..data"]?.slice(3) ?? "", "a")));
  t.false(await isInGeneration(join(real, "a")));
  await writeFile(join(real, "own"), "x");
  t.false(await isAtomicWriter(real), "something else is in it");
  const outside = join(dir, "outside");
  await mkdir(outside);
  await symlink("/etc", join(outside, "..data"));
  t.false(await isAtomicWriter(outside));
  const upward = join(dir, "upward");
  await mkdir(upward);
  await symlink("..", join(upward, "..data"));
  t.false(await isAtomicWriter(upward));
  t.false(await isAtomicWriter(join(dir, "none")));
});
