import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { hasCode } from "../../src/host/errors.js";
import { digestOf, pushBlob, pushManifest } from "../support/registry-push.js";
import { makeTar } from "../support/tar.js";
import { filesIn, newRepository, newStore, quick, randomLayer } from "./image-host.js";
import { cut, type Fault } from "./registry-proxy.js";
import { nothingLeft, proxied, pushed, ref, registry, test } from "./registry-rig.js";

test("connections cut in the middle of a layer: the rest is fetched by Range", async (t) => {
  const image = await pushed({ layers: [randomLayer(900_000), randomLayer(700_000)] });
  const proxy = await proxied(t, async ({ request, response, blob, before, upstream }) => {
    if (!blob || before >= 4) return false;
    const answer = await upstream();
    if (answer.body.length < 10_000) return false;
    if (before > 0) t.regex(request.headers.range ?? "", /^bytes=[1-9][0-9]*-[0-9]+$/);
    cut(response, answer, 150_000);
    return true;
  });
  const { store } = await newStore(t);
  t.is((await store.pull(ref(proxy.host, image))).id, image.configDigest);
  t.true(proxy.requests.some(({ headers }) => headers.range !== undefined));
});

test("a server that ignores Range, and one whose Content-Length is too small, still give the whole layer", async (t) => {
  const image = await pushed({ layers: [randomLayer(400_000)] });
  const whole = new Map<string, Buffer>();
  const ignoring = await proxied(t, async ({ request, response, blob, before, upstream }) => {
    if (!blob) return false;
    const path = request.url ?? "";
    if (before === 0) {
      const answer = await upstream();
      whole.set(path, answer.body);
      if (answer.body.length < 10_000) return false;
      cut(response, answer, 100_000);
      return true;
    }
    response.writeHead(200, { "content-length": whole.get(path)?.length });
    response.end(whole.get(path));
    return true;
  });
  const short = await proxied(t, async ({ response, blob, before, upstream }) => {
    if (!blob || before > 0) return false;
    const { headers, body } = await upstream();
    if (body.length < 10_000) return false;
    response.writeHead(200, { ...headers, "content-length": 50_000 });
    response.end(body.subarray(0, 50_000));
    return true;
  });
  for (const proxy of [ignoring, short]) {
    const { store } = await newStore(t);
    t.is((await store.pull(ref(proxy.host, image))).id, image.configDigest);
  }
});

test("a Content-Length that promises more than comes, and a layer longer than its manifest says", async (t) => {
  const image = await pushed({ layers: [randomLayer(200_000)] });
  const lying = await proxied(t, async ({ response, blob, upstream }) => {
    if (!blob) return false;
    const { headers, body } = await upstream();
    if (body.length < 10_000) return false;
    response.writeHead(200, { ...headers, "content-length": body.length + 1000 });
    response.write(body, () => response.socket?.end()); // an orderly end: a reset would take back what was sent
    return true;
  });
  const { store } = await newStore(t);
  t.is((await store.pull(ref(lying.host, image))).id, image.configDigest); // all that the manifest promised is there
  const endless = await proxied(t, async ({ response, blob, upstream }) => {
    if (!blob) return false;
    const { body } = await upstream();
    if (body.length < 10_000) return false;
    response.writeHead(200);
    response.end(Buffer.concat([body, Buffer.from("more")]));
    return true;
  });
  const fresh = await newStore(t);
  const error = await t.throwsAsync(fresh.store.pull(ref(endless.host, image)));
  t.regex(error.message, /larger than the [0-9]+ bytes that the manifest states/);
  nothingLeft(t, fresh.files());
});

test("wrong bytes are refused and nothing is left: layer, configuration, manifest by digest", async (t) => {
  const image = await pushed({ layers: [randomLayer(200_000)], compression: "none" });
  const targets: [string, RegExp][] = [
    [image.layerDigests[0] ?? "", /the registry sent other bytes|unpacks to/],
    [image.configDigest, /image configuration: the registry sent other bytes/],
    [image.digest, /manifests.*the registry sent other bytes/],
  ];
  for (const [target, message] of targets) {
    const proxy = await proxied(t, async ({ request, response, upstream }) => {
      if (!request.url?.includes(target)) return false;
      const { status, headers, body } = await upstream();
      const changed = Buffer.from(body);
      const at = changed.length - (target === image.layerDigests[0] ? 50_000 : 3);
      changed[at] = (changed[at] ?? 0) ^ 1;
      response.writeHead(status, headers);
      response.end(changed);
      return true;
    });
    const { store, files } = await newStore(t);
    const error = await t.throwsAsync(store.pull(ref(proxy.host, image, `@${image.digest}`)));
    t.true(hasCode(error, "invalid_argument"), error.message);
    t.regex(error.message, message);
    nothingLeft(t, files());
    t.deepEqual(store.list(), []);
  }
});

test("a layer that unpacks to another diffID than the configuration says is refused", async (t) => {
  const repository = newRepository();
  const layer = randomLayer(1000);
  const digest = await pushBlob(registry.host, repository, layer);
  const config = Buffer.from(
    JSON.stringify({
      architecture: "amd64",
      os: "linux",
      rootfs: { type: "layers", diff_ids: [digestOf(Buffer.from("other"))] },
    }),
  );
  await push(repository, config, [{ mediaType: "application/vnd.oci.image.layer.v1.tar", digest, size: layer.length }]);
  const { store, files } = await newStore(t);
  const error = await t.throwsAsync(store.pull(ref(registry.host, { repository })));
  t.regex(error.message, /the image configuration wants/);
  nothingLeft(t, files());
});

async function push(
  repository: string,
  config: Buffer,
  layers: { mediaType: string; digest: string; size: number; urls?: string[] }[],
  configType = "application/vnd.oci.image.config.v1+json",
): Promise<void> {
  const digest = await pushBlob(registry.host, repository, config);
  const mediaType = "application/vnd.oci.image.manifest.v1+json";
  const manifest = {
    schemaVersion: 2,
    mediaType,
    config: { mediaType: configType, digest, size: config.length },
    layers,
  };
  await pushManifest({
    host: registry.host,
    repository,
    name: "1",
    mediaType,
    body: Buffer.from(JSON.stringify(manifest)),
  });
}

test("what is no image for us is refused by name: foreign layers, charts, schema 1, unknown types, oversize documents", async (t) => {
  const { store, files } = await newStore(t, { limits: { maxDocumentBytes: 20_000 } });
  const reply = async (body: unknown, contentType: string): Promise<Error> => {
    const proxy = await proxied(t, ({ request, response }) => {
      if (!request.url?.includes("/manifests/")) return false;
      response.writeHead(200, { "content-type": contentType });
      response.end(typeof body === "string" ? body : JSON.stringify(body));
      return true;
    });
    return t.throwsAsync(store.pull(ref(proxy.host, { repository: "a/b" })));
  };
  const oci = "application/vnd.oci.image.manifest.v1+json";
  const part = (mediaType: string) => ({ mediaType, digest: digestOf(Buffer.from("x")), size: 1 });
  const config = part("application/vnd.oci.image.config.v1+json");
  const manifest = (layerType: string) => ({ schemaVersion: 2, mediaType: oci, config, layers: [part(layerType)] });
  const foreign = await reply(manifest("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), oci);
  t.regex(foreign.message, /foreign layer/);
  t.regex((await reply(manifest("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"), oci)).message, /encrypted/);
  const chart = {
    schemaVersion: 2,
    mediaType: oci,
    config: part("application/vnd.cncf.helm.config.v1+json"),
    layers: [],
  };
  t.regex((await reply(chart, oci)).message, /not a container image/);
  const schema1 = await reply(
    { schemaVersion: 1, fsLayers: [] },
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
  );
  t.true(hasCode(schema1, "failed_precondition"));
  t.regex(schema1.message, /schema 1/);
  t.regex((await reply("<html>", "text/html")).message, /not a JSON object/);
  t.regex(
    (await reply({ schemaVersion: 2, config: { ...config, digest: "sha256:../../x" }, layers: [] }, oci)).message,
    /digest/,
  );
  const large = await reply(" ".repeat(30_000), oci);
  t.true(hasCode(large, "resource_exhausted"));
  nothingLeft(t, files());
});

test("429 and 503 are tried again, as Retry-After says; other errors are not", async (t) => {
  const image = await pushed();
  const statuses = [429, 503];
  const proxy = await proxied(t, ({ response, before }) => {
    const status = statuses[before];
    if (status === undefined) return false;
    response.writeHead(status, { "retry-after": "0" });
    response.end();
    return true;
  });
  const { store } = await newStore(t);
  t.is((await store.pull(ref(proxy.host, image))).id, image.configDigest);
  const failing = await proxied(t, ({ response }) => {
    response.writeHead(503, { "retry-after": "0" });
    response.end();
    return true;
  });
  const error = await t.throwsAsync(store.pull(ref(failing.host, image)));
  t.true(hasCode(error, "unavailable"));
  t.is(failing.requests.length, quick.attempts);
  const forbidden = await proxied(t, ({ response }) => {
    response.writeHead(403);
    response.end();
    return true;
  });
  t.true(hasCode(await t.throwsAsync(store.pull(ref(forbidden.host, image))), "permission_denied"));
  t.is(forbidden.requests.length, 1);
});

test.serial("a stalled connection is given up and resumed; one that always stalls ends the pull", async (t) => {
  const image = await pushed({ layers: [randomLayer(300_000)] });
  const stall: (times: number) => Fault =
    (times) =>
    async ({ response, blob, before, upstream }) => {
      if (!blob || before >= times) return false;
      const { status, headers, body } = await upstream();
      if (body.length < 10_000) return false;
      response.writeHead(status, headers);
      if (before === 0) response.write(body.subarray(0, 60_000));
      return true;
    };
  const limits = { stallMs: 1500, attempts: 4 };
  const once = await newStore(t, { limits });
  t.is((await once.store.pull(ref((await proxied(t, stall(1))).host, image))).id, image.configDigest);
  const always = await newStore(t, { limits });
  const error = await t.throwsAsync(always.store.pull(ref((await proxied(t, stall(99))).host, image)));
  t.true(hasCode(error, "unavailable"), error.message);
  nothingLeft(t, always.files());
});

test("bounds: unpacked size (a bomb), entries, space on the disk", async (t) => {
  const bomb = await pushed({ layers: [makeTar([{ name: "zeros", data: Buffer.alloc(20 << 20) }])] });
  for (const compression of ["gzip", "zstd"] as const) {
    const image =
      compression === "gzip"
        ? bomb
        : await pushed({ compression, layers: [makeTar([{ name: "z", data: Buffer.alloc(20 << 20) }])] });
    const { store, files } = await newStore(t, { limits: { maxUnpackedBytes: 5 << 20 } });
    const error = await t.throwsAsync(store.pull(ref(registry.host, image)));
    t.true(hasCode(error, "resource_exhausted"));
    nothingLeft(t, files());
  }
  const many = await pushed({ layers: [makeTar(Array.from({ length: 200 }, (_, i) => ({ name: `f${i}` })))] });
  const few = await newStore(t, { limits: { maxEntries: 100 } });
  t.regex((await t.throwsAsync(few.store.pull(ref(registry.host, many)))).message, /more than 100 entries/);
  const full = await newStore(t, { limits: { keepFreeBytes: 2 ** 52 } });
  const space = await t.throwsAsync(full.store.pull(ref(registry.host, many)));
  t.true(hasCode(space, "resource_exhausted"));
  t.regex(space.message, /MiB free/);
  nothingLeft(t, full.files());
});

test("a disk that fills up in the middle: resource_exhausted, nothing left, and room again", async (t) => {
  if (process.getuid?.() !== 0) {
    t.log("skipped: mounting a small tmpfs needs root");
    t.pass();
    return;
  }
  const stateDir = await mkdtemp(join(tmpdir(), "podvm-small-"));
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=8m", "podvm-test", stateDir]);
  t.teardown(async () => {
    execFileSync("umount", [stateDir]);
    await rm(stateDir, { recursive: true });
  });
  const { store, files } = await newStore(t, { stateDir });
  const image = await pushed({ layers: [makeTar([{ name: "z", data: Buffer.alloc(30 << 20) }])] });
  const error = await t.throwsAsync(store.pull(ref(registry.host, image)));
  t.true(hasCode(error, "resource_exhausted"), error.message);
  t.regex(error.message, /no space left/);
  nothingLeft(t, files());
  t.truthy(await store.pull(ref(registry.host, await pushed({ layers: [randomLayer(2 << 20)] }))));
});

test("a store killed in the middle of a pull opens clean, and what was there is still there", async (t) => {
  const kept = await pushed();
  const image = await pushed({ layers: [randomLayer(3 << 20), randomLayer(2 << 20), randomLayer(1000)] });
  const before = await newStore(t);
  await before.store.pull(ref(registry.host, kept));
  const { stateDir } = before;
  const clean = before.files();
  const program = fileURLToPath(new URL("./pull-child.js", import.meta.url));
  let interrupted = 0;
  for (let round = 0; round < 6; round++) {
    const child = spawn(process.execPath, [program, stateDir, `${registry.host}/${image.repository}:1`], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const closed = once(child, "close"); // it may be done before it is killed
    await once(child.stdout, "data"); // it has opened the store
    await new Promise((resolve) => setTimeout(resolve, round * 60));
    child.kill("SIGKILL");
    await closed;
    const { store, files } = await newStore(t, { stateDir });
    t.truthy(store.find(kept.configDigest));
    await t.notThrowsAsync(store.device(kept.configDigest));
    if (store.find(image.configDigest)) await store.remove(image.configDigest);
    else interrupted += 1;
    t.deepEqual(files(), clean);
  }
  t.true(interrupted > 0);
  const { store } = await newStore(t, { stateDir });
  t.is((await store.pull(ref(registry.host, image))).id, image.configDigest);
});

test("files that nothing names are swept when the store opens; an image with a part missing is dropped", async (t) => {
  const first = await newStore(t);
  const [a, b] = [await pushed(), await pushed()];
  await first.store.pull(ref(registry.host, a));
  await first.store.pull(ref(registry.host, b));
  const images = join(first.stateDir, "images");
  const stray = ["layers/sha256-00.tar", "layers/sha256-00.entries", "images/sha256-11.erofs", "tmp/x/y"];
  await mkdir(join(images, "tmp/x"), { recursive: true });
  for (const path of stray) await writeFile(join(images, path), "stray");
  await rm(join(images, `layers/${(a.diffIds[0] ?? "").replace(":", "-")}.tar`));
  const { store, files } = await newStore(t, { stateDir: first.stateDir });
  t.deepEqual(
    store.list().map(({ id }) => id),
    [b.configDigest],
  );
  for (const path of stray) t.false(existsSync(join(images, path)));
  t.is(files().length, 2 * 3 + 2 + 1);
  t.deepEqual(filesIn(images), files());
});
