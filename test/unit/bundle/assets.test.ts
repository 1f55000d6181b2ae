import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { installedAssets } from "../../../src/bundle/folders.js";
import { listBundle } from "../../../src/bundle/list.js";
import { readBundleManifest, readGuestManifest } from "../../../src/bundle/manifest.js";
import { pruneAssets } from "../../../src/bundle/prune.js";
import { PodvmError } from "../../../src/host/errors.js";

const hash = "0123456789abcdef".repeat(4);
const bundleOf = (digest: string) => ({
  digest,
  inputs: hash,
  suite: "trixie",
  tools: { qemu: "10.0.13" },
  pinned: true,
  packages: [{ name: "zstd", version: "1.5.7+dfsg-1" }],
});
const guestOf = (digest: string) => ({
  digest,
  kernel: "6.12.1-cloud-amd64",
  crun: "1.21",
  agentSha256: hash,
  cmdline: "quiet",
  modules: ["erofs"],
  files: { vmlinux: hash, initrd: hash },
});

async function folder(t: ExecutionContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), "podvm-assets-"));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** An assets folder with these versions; the first of each kind is the current one. */
async function assets(t: ExecutionContext, bundles: string[], guests: string[]): Promise<string> {
  const root = await folder(t);
  for (const [kind, digests, of] of [
    ["bundle", bundles, bundleOf],
    ["guest", guests, guestOf],
  ] as const) {
    await mkdir(`${root}/${kind}`);
    for (const digest of digests) {
      await mkdir(`${root}/${kind}/${digest}`);
      await writeFile(`${root}/${kind}/${digest}/manifest.json`, JSON.stringify(of(digest)));
    }
    if (digests[0]) await symlink(digests[0], `${root}/${kind}/current`);
  }
  return root;
}

const [a, b, c] = ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"];

test("lists what is installed, current versions first, and no unfinished build", async (t) => {
  const root = await assets(t, [b, a], [c]);
  await mkdir(`${root}/bundle/.build-Ab12cd`);
  const listed = await listBundle(root);
  t.deepEqual(
    listed.map((l) => [l.kind, l.digest, l.current]),
    [
      ["bundle", b, true],
      ["guest", c, true],
      ["bundle", a, false],
    ],
  );
  t.is(listed[0]?.kind === "bundle" ? listed[0].manifest.tools.qemu : undefined, "10.0.13");
  t.is(listed[1]?.kind === "guest" ? listed[1].manifest.cmdline : undefined, "quiet");
});

test("nothing installed: an empty list, and nothing to prune", async (t) => {
  const root = await folder(t);
  t.deepEqual(await listBundle(root), []);
  t.deepEqual(await pruneAssets(root, []), []);
});

test("a manifest that is missing, no JSON, or wrong says which file, what is wrong, and what to do", async (t) => {
  const root = await assets(t, [a], [a]);
  const cases: [() => Promise<unknown>, string | undefined, RegExp][] = [
    [
      () => readBundleManifest(`${root}/bundle/${b}`),
      undefined,
      /bbbb\/manifest\.json, found nothing there; run `make setup`/,
    ],
    [() => readBundleManifest(`${root}/bundle/${a}`), "{", /aaaa\/manifest\.json, found no JSON; run/],
    [
      () => readBundleManifest(`${root}/bundle/${a}`),
      JSON.stringify({ ...bundleOf(a), digest: "../x" }),
      /digest: wanted 16 hex/,
    ],
    [
      () => readGuestManifest(`${root}/guest/${a}`),
      JSON.stringify({ ...guestOf(a), cmdline: 7 }),
      /guest image's manifest .* cmdline: /,
    ],
    [() => readGuestManifest(`${root}/guest/${a}`), "[]", /run `make setup`/],
  ];
  for (const [read, content, message] of cases) {
    for (const kind of ["bundle", "guest"]) {
      if (content !== undefined) await writeFile(`${root}/${kind}/${a}/manifest.json`, content);
    }
    const err = await t.throwsAsync(read, { instanceOf: PodvmError, message });
    t.is(err?.code, "failed_precondition");
  }
});

test("prune removes what is neither current nor kept", async (t) => {
  const root = await assets(t, [a, b, c], [c, a]);
  const alias = `${await folder(t)}/alias`;
  await symlink(root, alias);
  // The kept one is named by another path to the same folder.
  t.deepEqual(await pruneAssets(root, [`${alias}/bundle/${b}`, "/gone/long/ago"]), [
    `${root}/bundle/${c}`,
    `${root}/guest/${a}`,
  ]);
  t.deepEqual(
    (await installedAssets(root)).map((f) => `${f.kind}/${f.digest}`),
    [`bundle/${a}`, `bundle/${b}`, `guest/${c}`],
  );
  t.deepEqual(await pruneAssets(alias, [`${root}/bundle/${b}`]), []);
  t.deepEqual(await pruneAssets(alias, []), [`${root}/bundle/${b}`]);
});

test("prune touches nothing of a kind without a current version", async (t) => {
  const root = await assets(t, [a, b], []);
  await rm(`${root}/bundle/current`);
  t.deepEqual(await pruneAssets(root, []), []);
  t.is((await installedAssets(root)).length, 2);
});

test("prune waits for a build, and says so when it does not end", async (t) => {
  const root = await assets(t, [a, b], []);
  const build = spawn("flock", [`${root}/bundle/.lock`, "sh", "-c", "echo held; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  t.teardown(() => build.kill("SIGKILL"));
  await new Promise((resolve) => build.stdout.once("data", resolve));
  const err = await t.throwsAsync(pruneAssets(root, [], 1000), { instanceOf: PodvmError, message: /bundle\/\.lock/ });
  t.is(err?.code, "unavailable");
  t.true(existsSync(`${root}/bundle/${b}`));

  const pruned = pruneAssets(root, [], 30_000);
  build.stdin.end();
  t.deepEqual(await pruned, [`${root}/bundle/${b}`]);
});
