import { execFileSync, spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import {
  createReadStream,
  createWriteStream,
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
} from "node:fs";
import { mkdir, mkdtemp, open, rm, rmdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";
import test, { type ExecutionContext } from "ava";
import { bundleTool } from "../../src/host/assets.js";
import { defaultImageLimits } from "../../src/image/limits.js";
import { StoreFiles } from "../../src/image/store/files.js";
import { makeImageIndex } from "../../src/image/store/image-index.js";
import { LayerStore } from "../../src/image/store/layers.js";
import { digestOf, testAssets } from "../support/registry-push.js";
import { makeTar, type TarItem } from "../support/tar.js";

/**
 * The device of an image, mounted by the kernel, against the same layers extracted by GNU tar with the whiteouts applied by the
 * test: every name, mode, owner, time, link, device, attribute and byte.
 */
const missing = whyNot();
const check = missing ? test.skip : test;
if (missing) console.log(`skipped: erofs.test.ts: ${missing}`);

function whyNot(): string | undefined {
  if (process.getuid?.() !== 0) return "mounting needs root";
  if (!readFileSync("/proc/filesystems", "utf8").includes("\terofs\n")) {
    try {
      execFileSync("modprobe", ["erofs"], { stdio: "ignore" });
    } catch {
      return "this kernel has no erofs";
    }
  }
  return existsSync("/dev/loop-control") ? undefined : "no loop devices";
}

const limits = {
  maxLayerBytes: 1 << 30,
  maxEntries: defaultImageLimits.maxEntries,
  maxMetadataBytes: defaultImageLimits.maxMetadataBytes,
};

/** Puts the layers in a new store. @returns the image's device as one file */
async function deviceOf(t: ExecutionContext, layers: readonly Buffer[]): Promise<string> {
  const root = await workFolder(t);
  const files = new StoreFiles(join(root, "images"));
  await files.prepare();
  const store = new LayerStore(files);
  const diffIds = layers.map(digestOf);
  for (const [i, layer] of layers.entries()) {
    const diffId = diffIds[i] as string;
    if (!store.has(diffId)) await store.add(chunks(layer), { diffId, zstd: "zstd", limits });
  }
  const imageId = digestOf(Buffer.from(diffIds.join()));
  const made = await makeImageIndex(imageId, diffIds, limits.maxEntries, files, store);
  const device = join(root, "device");
  const extents = [
    { path: files.imageIndex(imageId), bytes: made.indexBytes },
    ...made.deviceLayers.map(({ diffId, bytes }) => ({ path: files.layerTar(diffId), bytes })),
  ];
  for (const { path, bytes } of extents) {
    t.is(bytes % 4096, 0);
    t.is(lstatSync(path).mode & 0o777, 0o444);
    await pipeline(createReadStream(path, { end: bytes - 1 }), createWriteStream(device, { flags: "a" }));
  }
  return device;
}

/** Mounts the image's device read-only. @returns the mount point */
async function mounted(t: ExecutionContext, layers: readonly Buffer[]): Promise<string> {
  const device = await deviceOf(t, layers);
  const mountPoint = await mkdtemp(join(tmpdir(), "podvm-erofs-mnt-"));
  t.teardown(() => rmdir(mountPoint));
  execFileSync("mount", ["-t", "erofs", "-o", "ro,loop", device, mountPoint]);
  t.teardown(() => execFileSync("umount", [mountPoint]));
  return mountPoint;
}

/** What containerd's applier would leave: whiteouts take from what is below, then the layer is extracted over it. */
async function extracted(t: ExecutionContext, layers: readonly Buffer[]): Promise<string> {
  const root = await workFolder(t);
  const target = join(root, "tree");
  await mkdir(target, { mode: 0o755 });
  for (const layer of layers) {
    const tar = join(root, "layer.tar");
    await writeFile(tar, layer);
    const names = execFileSync("tar", ["-tf", tar, "--quoting-style=literal"], { encoding: "latin1" }).split("\n");
    for (const name of names) {
      const base = name.slice(name.lastIndexOf("/") + 1);
      const folder = join(target, name.slice(0, name.lastIndexOf("/") + 1));
      if (base === ".wh..wh..opq") {
        if (existsSync(folder))
          for (const child of readdirSync(folder)) rmSync(join(folder, child), { recursive: true });
      } else if (base.startsWith(".wh.")) {
        rmSync(join(folder, base.slice(4)), { recursive: true, force: true });
      } else if (base !== "" && isFolder(join(target, name))) {
        rmSync(join(target, name), { recursive: true }); // GNU tar would not replace a folder by something else
      }
    }
    execFileSync("tar", [
      ...["-xpf", tar, "-C", target, "--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*"],
      ...["--delay-directory-restore", "--exclude=.wh.*", "--no-wildcards-match-slash"],
    ]);
  }
  return target;
}

function isFolder(path: string): boolean {
  try {
    return lstatSync(path).isDirectory();
  } catch {
    return false; // not there, or below something that is no folder
  }
}

/** One line per object: what a container could tell about it. Implicit folders have no time of their own. */
function listing(root: string, timeless: readonly string[] = []): string[] {
  const lines: string[] = [];
  const inodes = new Map<bigint, string>();
  const visit = (path: Buffer, shown: string) => {
    const info = lstatSync(path, { bigint: true });
    const time = timeless.includes(shown) ? "-" : String(info.mtimeNs);
    const parts = [shown, info.mode.toString(8), info.uid, info.gid, time];
    if (info.isSymbolicLink()) parts.push(`-> ${readlinkSync(path, "buffer").toString("latin1")}`);
    else if (info.isFile()) {
      parts.push(info.size, createHash("sha256").update(readFileSync(path)).digest("hex"), info.nlink);
      if (info.nlink > 1n) {
        const first = inodes.get(info.ino);
        parts.push(first === undefined ? "first" : `same as ${first}`);
        if (first === undefined) inodes.set(info.ino, shown);
      }
    } else if (info.isBlockDevice() || info.isCharacterDevice()) parts.push(String(info.rdev));
    lines.push(parts.join(" "));
    if (!info.isDirectory()) return;
    for (const name of readdirSync(path, { encoding: "buffer" }).sort(Buffer.compare)) {
      visit(Buffer.concat([path, Buffer.from("/"), name]), `${shown}/${name.toString("latin1")}`);
    }
  };
  visit(Buffer.from(root), "");
  const attributes = execFileSync("getfattr", ["-R", "-h", "-d", "-m", "-", "-e", "hex", "."], {
    cwd: root,
    encoding: "latin1",
    stdio: ["ignore", "pipe", "ignore"],
    maxBuffer: 1 << 26,
  });
  const blocks = attributes.split("\n\n").map((block) => block.split("\n").sort().join("; "));
  return [...lines, ...blocks.filter((block) => block !== "").sort()];
}

async function compare(
  t: ExecutionContext,
  layers: readonly Buffer[],
  timeless?: readonly string[],
): Promise<string[]> {
  const [found, wanted] = [await mounted(t, layers), await extracted(t, layers)];
  const lines = listing(found, timeless);
  t.deepEqual(lines, listing(wanted, timeless));
  return lines;
}

async function workFolder(t: ExecutionContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "podvm-erofs-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

async function* chunks(bytes: Buffer): AsyncGenerator<Buffer> {
  for (let at = 0; at < bytes.length; at += 70_001) yield bytes.subarray(at, at + 70_001);
}

const root: TarItem = { name: "./", mode: 0o755, mtime: 1_600_000_000 };

check("one layer: every kind of object, and names of every kind", async (t) => {
  const long = "d".repeat(200);
  const lines = await compare(t, [
    makeTar([
      { ...root, mode: 0o1750, uid: 7, gid: 8 },
      { name: "etc/", mode: 0o2755, uid: 1, gid: 2 },
      { name: "etc/file", data: "hello\n", mode: 0o4755, uid: 100_000, gid: 3_000_000_000 },
      { name: "etc/empty", data: "" },
      { name: "etc/block", data: randomBytes(512) },
      { name: "etc/big", data: randomBytes(3 * 4096 + 1) },
      { name: "etc/hard", type: "1", link: "etc/file" },
      { name: "etc/harder", type: "1", link: "/etc/hard" },
      { name: "etc/link", link: "../usr/nowhere" },
      { name: "etc/longlink", link: `/${"x/".repeat(700)}end` },
      { name: "dev/", mode: 0o755 },
      { name: "dev/null", type: "3", major: 1, minor: 3, mode: 0o666 },
      { name: "dev/big", type: "4", major: 259, minor: 70_000, mode: 0o660, gid: 6 },
      { name: "dev/fifo", type: "6", mode: 0o600 },
      { name: `${long}/`, mode: 0o700 },
      { name: `${long}/${long}/`, mode: 0o700 },
      { name: `${long}/${long}/${"f".repeat(255)}`, data: "deep" },
      { name: "ünïcode ☃/", mode: 0o755 },
      { name: Buffer.from("latin1-\xff\xfe\x80", "latin1"), data: "not utf-8" },
      { name: "new\nline", data: "newline in the name" },
      { name: "back\\slash", data: "backslash" },
      { name: "fraction", data: "", pax: [["mtime", "1700000000.123456789"]] },
    ]),
  ]);
  t.true(lines.some((line) => line.includes("latin1-\xff\xfe\x80")));
});

check("extended attributes: capabilities, binary values, many, and those of folders and symlinks", async (t) => {
  const capability = Buffer.from("0100000200040000000000000000000000000000", "hex");
  const many: [string, string | Buffer][] = Array.from({ length: 40 }, (_, i) => [
    `SCHILY.xattr.user.key${i}`,
    randomBytes(40 + i),
  ]);
  await compare(t, [
    makeTar([
      root,
      { name: "ping", data: "#!", pax: [["SCHILY.xattr.security.capability", capability]] },
      { name: "binary", data: "x", pax: [["SCHILY.xattr.user.bin", Buffer.from([0, 10, 61, 255, 0])]] },
      { name: "trusted", data: "", pax: [["SCHILY.xattr.trusted.a", "b"]] },
      { name: "folder/", pax: [["SCHILY.xattr.user.on", "a folder"]] },
      { name: "many", data: "many", pax: many },
    ]),
  ]);
});

check(
  "whiteouts and opaque folders hide what is below, through several layers, and nothing of their own layer",
  async (t) => {
    const below = makeTar([
      root,
      { name: "a/" },
      { name: "a/gone", data: "1" },
      { name: "a/kept", data: "2" },
      { name: "app/" },
      { name: "app/old", data: "3" },
      { name: "app/deep/" },
      { name: "app/deep/old", data: "4" },
      { name: "tree/" },
      { name: "tree/leaf", data: "5" },
      { name: "again", data: "6" },
      { name: "hard1", data: "7" },
      { name: "hard2", type: "1", link: "hard1" },
    ]);
    const middle = makeTar([
      { name: "a/" },
      { name: "a/.wh.gone", data: "" },
      { name: "app/" },
      { name: "app/new", data: "n" },
      { name: "app/.wh..wh..opq", data: "" },
      { name: ".wh.tree", data: "" },
      { name: ".wh.hard1", data: "" },
      { name: ".wh.never-there", data: "" },
      { name: "again", data: "replaced" },
      { name: ".wh.again", data: "" },
    ]);
    const top = makeTar([
      { name: "app/" },
      { name: "app/deep/" },
      { name: "app/deep/newer", data: "z" },
      { name: "tree/" },
      { name: "tree/other", data: "o" },
    ]);
    const lines = await compare(t, [below, middle, top], [""]);
    const paths = lines.map((line) => line.split(" ")[0]);
    t.false(paths.includes("/app/old"));
    t.false(paths.includes("/app/deep/old"));
    t.false(paths.includes("/tree/leaf"));
    t.true(paths.includes("/again"));
  },
);

check("a folder that an upper layer does not describe keeps what the lower one said", async (t) => {
  const lines = await compare(
    t,
    [
      makeTar([
        { ...root, mode: 0o711 },
        { name: "tmp/", mode: 0o1777 },
        { name: "home/", uid: 5 },
      ]),
      makeTar([{ name: "tmp/x/y", data: "no entry for tmp and x" }]),
    ],
    ["", "/tmp", "/tmp/x"],
  );
  t.true(lines.some((line) => line.startsWith("/tmp 41777 ")));
  t.true(lines.some((line) => line.startsWith(" 40711 ")));
});

check("kinds that change between layers, symlinks on the way, hard links into lower layers", async (t) => {
  const lines = await compare(
    t,
    [
      makeTar([
        root,
        { name: "lib", link: "usr/lib" },
        { name: "usr/" },
        { name: "usr/lib/" },
        { name: "usr/lib/libc", data: "c" },
        { name: "folder/" },
        { name: "folder/in", data: "" },
        { name: "file", data: "f" },
      ]),
      makeTar([
        { name: "lib/libm", data: "through the symlink" },
        { name: "folder", data: "now a file" },
        { name: "file/" },
        { name: "file/in", data: "now a folder" },
        { name: "usr/lib/link", type: "1", link: "usr/lib/libc" },
      ]),
    ],
    ["", "/usr/lib"],
  );
  t.true(lines.some((line) => line.startsWith("/usr/lib/libm ")));
  t.true(lines.some((line) => line.startsWith("/lib 120777 ")));
});

check("no layer, empty layers, and the same layer twice", async (t) => {
  const none = await mounted(t, []);
  t.deepEqual(readdirSync(none), []);
  t.is(lstatSync(none).mode & 0o7777, 0o755);
  t.is(lstatSync(none).uid, 0);
  const some = makeTar([root, { name: "f", data: "once" }]);
  await compare(t, [makeTar([]), some, makeTar([]), some]);
});

check("a folder with many names, found one by one", async (t) => {
  const items = Array.from({ length: 5000 }, (_, i) => ({ name: `many/file-${(i * 7919) % 5000}`, data: String(i) }));
  const mount = await mounted(t, [makeTar([root, { name: "many/" }, ...items])]);
  t.is(readdirSync(join(mount, "many")).length, 5000);
  for (const { name, data } of items) t.is(readFileSync(join(mount, name), "utf8"), data);
  t.false(existsSync(join(mount, "many/file-5000")));
});

for (const format of [
  "gnu",
  "pax --sparse-version=0.0",
  "pax --sparse-version=0.1",
  "pax --sparse-version=1.0",
  "v7",
  "ustar",
]) {
  check(`tars of GNU tar, format ${format}`, async (t) => {
    const folder = await workFolder(t);
    const source = join(folder, "source");
    await mkdir(join(source, "sub"), { recursive: true });
    await writeFile(join(source, "sub/plain"), randomBytes(10_000));
    const sparse = !["v7", "ustar"].includes(format);
    if (sparse) {
      await writeFile(join(source, "sub", "n".repeat(180)), "long name");
      const holes = join(source, "holes");
      for (let i = 0; i < 30; i++) {
        execFileSync("dd", ["if=/dev/urandom", `of=${holes}`, "bs=4096", "count=1", `seek=${i * 16}`, "conv=notrunc"], {
          stdio: "ignore",
        });
      }
      execFileSync("truncate", ["-s", "3000001", holes]);
    }
    const tar = join(folder, "layer.tar");
    const flags = `--format=${format}`.split(" ");
    execFileSync("tar", ["-cf", tar, ...(sparse ? ["--sparse"] : []), ...flags, "-C", source, "."]);
    await compare(t, [readFileSync(tar)]);
  });
}

check("hostile names stay inside the tree", async (t) => {
  const mount = await mounted(t, [
    makeTar([
      root,
      { name: "../../etc/passwd", data: "up" },
      { name: "/abs/file", data: "absolute" },
      { name: "a/../../b/./c", data: "dots" },
      { name: "loop", link: "loop" },
      { name: "out", link: "/../../../outside" },
      { name: "out/file", data: "through a link that points out" },
      { name: "//double///slash", data: "slashes" },
      { name: "hl", type: "1", link: "../../../abs/file" },
    ]),
  ]);
  t.deepEqual(readdirSync(mount).sort(), ["abs", "b", "double", "etc", "hl", "loop", "out", "outside"]);
  t.is(readFileSync(join(mount, "outside/file"), "utf8"), "through a link that points out");
  t.is(readFileSync(join(mount, "hl"), "utf8"), "absolute");
});

test("fsck.erofs finds nothing wrong with a device, and would find it", async (t) => {
  const device = await deviceOf(t, randomLayers(99).map(makeTar));
  const fsck = () => spawnSync(bundleTool(testAssets(), "fsck.erofs"), ["--extract", device], { encoding: "utf8" });
  const good = fsck();
  t.is(good.status, 0, good.stderr);
  const file = await open(device, "r+");
  await file.write(Buffer.alloc(512, 0xff), 0, 512, 2048); // among the inodes
  await file.close();
  t.not(fsck().status, 0);
});

check("random layers, as GNU tar would leave them", async (t) => {
  for (let round = 0; round < 8; round++) {
    const layers = randomLayers(round + 1);
    await compare(t, layers.map(makeTar), undefined);
  }
});

/** Layers of random changes, each with explicit parents as `docker commit` writes them. Deterministic per seed. */
function randomLayers(seed: number): TarItem[][] {
  let state = seed;
  const random = (below: number) => {
    state = (state * 1103515245 + 12345) % 2147483648;
    return Math.floor(state / 65536) % below;
  };
  const folders = ["", "a/", "a/b/", "c/", "c/d/"];
  const layers: TarItem[][] = [];
  for (let l = 0; l < 4; l++) {
    const items: TarItem[] = folders.map((name) => ({
      name: `./${name}`,
      mode: 0o700 + random(0o77),
      uid: random(5),
      mtime: 1e9 + random(1e6),
    }));
    const used = new Set<string>();
    for (let i = 0; i < 25; i++) {
      const name = `${folders[random(folders.length)]}n${random(12)}`;
      if (used.has(name)) continue;
      used.add(name);
      const kind = random(6);
      if (kind === 0) items.push({ name, link: `target${random(100)}` });
      else if (kind === 1)
        items.push({ name: `${name}/` }, { name: `${name}/inner${random(3)}`, data: randomBytes(random(2000)) });
      else if (kind === 2 && l > 0) items.push({ name: name.replace(/n([0-9]+)$/, ".wh.n$1"), data: "" });
      else if (kind === 3 && l > 0) items.push({ name: `${folders[1 + random(4)]}.wh..wh..opq`, data: "" });
      else items.push({ name, data: randomBytes(random(6000)), mode: random(0o7777), gid: random(100) });
    }
    layers.push(items);
  }
  return layers;
}
