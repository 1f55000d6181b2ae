import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { hasCode } from "../../src/host/errors.js";
import type { PullProgress } from "../../src/image/image.js";
import { pushImage, pushIndex } from "../support/registry-push.js";
import { makeTar } from "../support/tar.js";
import { newRepository, newStore, randomLayer } from "./image-host.js";
import { nothingLeft, proxied, pushed, ref, registry, test } from "./registry-rig.js";

for (const mediaTypes of ["oci", "docker"] as const) {
  for (const compression of ["gzip", "zstd", "none"] as const) {
    test(`pull: ${mediaTypes} media types, ${compression} layers`, async (t) => {
      const { store, files } = await newStore(t);
      const config = { Cmd: ["sh"], Env: ["A=b"], User: "app", Labels: { a: "b" }, ExposedPorts: { "80/tcp": {} } };
      const image = await pushed({ mediaTypes, compression, config });
      const progress: PullProgress[] = [];
      const got = await store.pull(ref(registry.host, image), { onProgress: (p) => progress.push(p) });
      const name = `${registry.host}/${image.repository}`;
      t.is(got.id, image.configDigest);
      t.deepEqual(got.repoTags, [`${name}:1`]);
      t.deepEqual(got.repoDigests, [`${name}@${image.digest}`]);
      t.is(got.platform, "linux/amd64");
      t.like(got.config, {
        cmd: ["sh"],
        env: ["A=b"],
        user: "app",
        labels: { a: "b" },
        exposedPorts: ["80/tcp"],
        entrypoint: [],
      });
      t.deepEqual(store.list(), [got]);
      const device = await store.device(got.id);
      t.is(device.extents.length, 3);
      t.is(
        got.size,
        device.extents.reduce((sum, { bytes }) => sum + bytes, 0),
      );
      for (const { path, bytes } of device.extents) t.is((await stat(path)).size, bytes);
      t.is(files().length, 2 * 3 + 2 + 1);
      t.is((await store.usage()).usedBytes, got.size);
      t.is((await store.usage()).inodesUsed, files().length);
      for (const layer of image.layerDigests) t.true(progress.some((p) => p.item === layer && p.state === "done"));
    });
  }
}

test("pull by digest, by tag and digest, and a second pull of what is here", async (t) => {
  const { store } = await newStore(t);
  const image = await pushed();
  const name = `${registry.host}/${image.repository}`;
  const byDigest = await store.pull(ref(registry.host, image, `@${image.digest}`));
  t.deepEqual([byDigest.repoTags, byDigest.repoDigests], [[], [`${name}@${image.digest}`]]);
  await store.pull(ref(registry.host, image, `:other@${image.digest}`));
  t.deepEqual(store.find(`${name}:other@${image.digest}`)?.id, image.configDigest);
  const progress: PullProgress[] = [];
  const again = await store.pull(ref(registry.host, image), { onProgress: (p) => progress.push(p) });
  t.deepEqual(again.repoTags, [`${name}:1`]);
  t.false(progress.some(({ item, state }) => image.layerDigests.includes(item) && state === "downloading"));
  t.is(store.list().length, 1);
});

test("an index is resolved to linux/amd64, the variant that asks least first; the digest kept is the index's", async (t) => {
  const { store } = await newStore(t);
  const repository = newRepository();
  const v3 = await pushed({ repository, tag: "v3" });
  const v1 = await pushed({ repository, tag: "v1" });
  const arm = await pushed({ repository, tag: "arm", architecture: "arm64" });
  const images = [
    { pushed: arm, platform: { os: "linux", architecture: "arm64" } },
    { pushed: v3, platform: { os: "linux", architecture: "amd64", variant: "v3" } },
    { pushed: v1, platform: { os: "linux", architecture: "amd64" } },
  ];
  for (const mediaTypes of ["oci", "docker"] as const) {
    const digest = await pushIndex({ host: registry.host, repository, tag: `multi-${mediaTypes}`, mediaTypes, images });
    const got = await store.pull(ref(registry.host, { repository }, `:multi-${mediaTypes}`));
    t.is(got.id, v1.configDigest);
    t.true(got.repoDigests.includes(`${registry.host}/${repository}@${digest}`));
  }
  await pushIndex({ host: registry.host, repository, tag: "armonly", images: images.slice(0, 1) });
  const error = await t.throwsAsync(store.pull(ref(registry.host, { repository }, ":armonly")));
  t.true(hasCode(error, "not_found"));
  t.regex(error.message, /no image for linux\/amd64; there is linux\/arm64/);
  const direct = await t.throwsAsync(store.pull(ref(registry.host, { repository }, ":arm")));
  t.regex(direct.message, /linux\/arm64, wanted linux\/amd64/);
});

test("what is not there is not_found, with the registry's words", async (t) => {
  const { store, files } = await newStore(t);
  const error = await t.throwsAsync(store.pull(ref(registry.host, { repository: newRepository() })));
  t.true(hasCode(error, "not_found"));
  t.regex(error.message, /HTTP 404.*MANIFEST_UNKNOWN/);
  nothingLeft(t, files());
});

test("two pulls of one image share the work; one that aborts does not end the other", async (t) => {
  const image = await pushed({ layers: [randomLayer(500_000)] });
  const proxy = await proxied(t, async ({ blob }) => {
    if (blob) await new Promise((resolve) => setTimeout(resolve, 150));
    return false;
  });
  const { store, files } = await newStore(t);
  const abort = new AbortController();
  const first = store.pull(ref(proxy.host, image), { signal: abort.signal });
  const second = store.pull(ref(proxy.host, image));
  setTimeout(() => abort.abort(), 50);
  t.true(hasCode(await t.throwsAsync(first), "cancelled"));
  t.is((await second).id, image.configDigest);
  t.is(proxy.requests.filter(({ line }) => line.includes(image.layerDigests[0] ?? "?")).length, 1);
  await store.remove(image.configDigest);
  nothingLeft(t, files());
});

test("an aborted pull leaves nothing, once it has said so", async (t) => {
  const image = await pushed({ layers: [randomLayer(500_000), randomLayer(1000)] });
  const { store, files } = await newStore(t);
  const proxy = await proxied(t, async ({ response, blob, upstream }) => {
    if (!blob) return false;
    const { status, headers, body } = await upstream();
    if (body.length < 10_000) return false;
    response.writeHead(status, headers);
    response.write(body.subarray(0, 200_000));
    return true;
  });
  const abort = new AbortController();
  const pull = store.pull(ref(proxy.host, image), {
    signal: abort.signal,
    onProgress: ({ doneBytes }) => {
      if (doneBytes > 100_000) abort.abort();
    },
  });
  t.true(hasCode(await t.throwsAsync(pull), "cancelled"));
  nothingLeft(t, files());
});

test("images with layers in common keep them once, and until the last goes", async (t) => {
  const { store, files } = await newStore(t);
  const base = randomLayer(100_000);
  const a = await pushed({ layers: [base, randomLayer(1000)] });
  const b = await pushed({ layers: [base, randomLayer(2000)] });
  await Promise.all([store.pull(ref(registry.host, a)), store.pull(ref(registry.host, b))]);
  t.is(files().filter((file) => file.endsWith(".tar")).length, 3);
  await store.remove(`${registry.host}/${a.repository}:1`);
  t.is(store.find(a.configDigest), undefined);
  t.is(files().filter((file) => file.endsWith(".tar")).length, 2);
  await t.notThrowsAsync(store.device(b.configDigest));
  await store.remove(b.configDigest.slice("sha256:".length));
  nothingLeft(t, files());
  await t.notThrowsAsync(store.remove("never-there:1"));
});

test("a tag that moves: the old image keeps its digest; names and ids find what they should", async (t) => {
  const { store } = await newStore(t);
  const repository = newRepository();
  const name = `${registry.host}/${repository}`;
  const old = await pushed({ repository });
  await store.pull(ref(registry.host, { repository }));
  const young = await pushed({ repository });
  await store.pull(ref(registry.host, { repository }));
  t.like(store.find(old.configDigest), { repoTags: [], repoDigests: [`${name}@${old.digest}`] });
  t.like(store.find(`${name}:1`), { id: young.configDigest, repoDigests: [`${name}@${young.digest}`] });
  t.is(store.find(young.configDigest.slice(7, 20))?.id, young.configDigest);
  t.is(store.find("sha256:"), undefined);
  t.is(store.find("not/../a:reference"), undefined);
  await pushImage({ host: registry.host, repository, tag: "2", layers: [] });
  const empty = await store.pull(ref(registry.host, { repository }, ":2"));
  t.is((await store.device(empty.id)).extents.length, 1);
  await store.remove(`${name}@${old.digest}`);
  t.is(store.find(old.configDigest), undefined);
  t.is(store.list().length, 2);
});

test("pinned images say so", async (t) => {
  const image = await pushed();
  const name = `${registry.host}/${image.repository}:1`;
  const { store } = await newStore(t, { pinned: [name] });
  t.true((await store.pull(ref(registry.host, image))).pinned);
  t.false((await store.pull(ref(registry.host, await pushed()))).pinned);
});

test("large layers stream: bytes on the device are the layer's", async (t) => {
  const data = randomBytes(5 << 20);
  const layer = makeTar([{ name: "data", data }]);
  const image = await pushed({ layers: [layer] });
  const { store } = await newStore(t);
  const { id } = await store.pull(ref(registry.host, image));
  const [, extent] = (await store.device(id)).extents;
  const found = readFileSync(extent?.path ?? "");
  t.is(Buffer.compare(found.subarray(0, layer.length), layer), 0);
  t.true(found.subarray(layer.length).every((byte) => byte === 0));
});

test("the pull that fetches a shared layer goes away: the other pull fetches it itself", async (t) => {
  const layer = randomLayer(400_000);
  const [a, b] = [
    await pushed({ layers: [layer, randomLayer(10)] }),
    await pushed({ layers: [layer, randomLayer(20)] }),
  ];
  const proxy = await proxied(t, async ({ request, response, blob, upstream }) => {
    if (!blob || !request.url?.includes(a.repository)) return false;
    const { status, headers, body } = await upstream();
    if (body.length < 10_000) return false;
    response.writeHead(status, headers);
    response.write(body.subarray(0, 100_000)); // and then nothing
    return true;
  });
  const { store, files } = await newStore(t);
  const abort = new AbortController();
  let begun = () => {};
  const fetching = new Promise<void>((resolve) => {
    begun = resolve;
  });
  const first = store.pull(ref(proxy.host, a), {
    signal: abort.signal,
    onProgress: ({ doneBytes }) => {
      if (doneBytes > 50_000) begun();
    },
  });
  const refused = t.throwsAsync(first);
  await fetching;
  const second = store.pull(ref(proxy.host, b));
  await new Promise((resolve) => setTimeout(resolve, 300));
  abort.abort();
  t.true(hasCode(await refused, "cancelled"));
  t.is((await second).id, b.configDigest);
  t.is(files().filter((file) => file.endsWith(".tar")).length, 2);
});
