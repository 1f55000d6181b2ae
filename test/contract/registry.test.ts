import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import anyTest, { type ExecutionContext, type TestFn } from "ava";
import { hasCode } from "../../src/host/errors.js";
import type { PullProgress } from "../../src/image/image.js";
import { parseReference } from "../../src/image/reference.js";
import { freePort, startRegistry, type TestRegistry } from "../support/registry.js";
import { digestOf, type Pushed, pushBlob, pushImage, pushIndex, pushManifest } from "../support/registry-push.js";
import { makeTar } from "../support/tar.js";
import { filesIn, newRepository, newStore, quick, randomLayer } from "./image-host.js";
import { cut, type Fault, type FaultProxy, startProxy } from "./registry-proxy.js";

const test = anyTest as TestFn;
let registry: TestRegistry;

test.before(async () => {
  registry = await startRegistry();
});
test.after.always(() => registry?.stop());

const namesFile = "names/names.json";

async function pushed(
  options: Partial<Parameters<typeof pushImage>[0]> = {},
): Promise<Pushed & { repository: string }> {
  const repository = options.repository ?? newRepository();
  const layers = options.layers ?? [randomLayer(100_000), randomLayer(50_000)];
  return { repository, ...(await pushImage({ host: registry.host, tag: "1", ...options, repository, layers })) };
}

async function proxied(t: ExecutionContext, fault?: Fault): Promise<FaultProxy> {
  const proxy = await startProxy(registry.url, fault);
  t.teardown(() => proxy.stop());
  return proxy;
}

const ref = (host: string, { repository }: { repository: string }, name = ":1") =>
  parseReference(`${host}/${repository}${name}`);

/** What a failed pull must leave: nothing but, perhaps, the empty list of names. */
function nothingLeft(t: ExecutionContext, files: string[]): void {
  t.deepEqual(
    files.filter((file) => file !== namesFile),
    [],
  );
}

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

/** A cheap stand-in for a registry that authenticates: the real one behind, the challenge before. */
function challenge(header: string, accepts: (authorization: string) => boolean): Fault {
  return ({ request, response }) => {
    if (accepts(request.headers.authorization ?? "")) return false;
    response.writeHead(401, { "www-authenticate": header });
    response.end();
    return true;
  };
}

test("basic authentication: CRI credentials, docker configuration file, wrong and none", async (t) => {
  const image = await pushed();
  const good = `Basic ${Buffer.from("user:pä:ss").toString("base64")}`;
  const proxy = await proxied(
    t,
    challenge('Basic realm="r"', (authorization) => authorization === good),
  );
  const { store, stateDir } = await newStore(t);
  const none = await t.throwsAsync(store.pull(ref(proxy.host, image)));
  t.true(hasCode(none, "unauthenticated"));
  const wrong = await t.throwsAsync(
    store.pull(ref(proxy.host, image), { credentials: { username: "user", password: "no" } }),
  );
  t.true(hasCode(wrong, "unauthenticated"));
  t.false(wrong.message.includes("no:"));
  t.is(
    (await store.pull(ref(proxy.host, image), { credentials: { username: "user", password: "pä:ss" } })).id,
    image.configDigest,
  );

  const path = join(stateDir, "docker.json");
  await writeFile(
    path,
    JSON.stringify({
      auths: { [`https://${proxy.host}/v1/`]: { auth: Buffer.from("user:pä:ss").toString("base64") } },
    }),
  );
  const fromFile = await newStore(t, { dockerConfigPaths: [join(stateDir, "none.json"), path] });
  t.is((await fromFile.store.pull(ref(proxy.host, image))).id, image.configDigest);
});

async function tokenServer(
  t: ExecutionContext,
  issue: (request: IncomingMessage, body: string) => unknown,
): Promise<string> {
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const reply = issue(request, Buffer.concat(chunks).toString());
    response.writeHead(reply === undefined ? 401 : 200, { "content-type": "application/json" });
    response.end(JSON.stringify(reply ?? { errors: [] }));
  });
  server.listen(await freePort(), "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close());
  const address = server.address();
  return `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}/token`;
}

test("bearer authentication: token by GET, renewed when it expires, refused with wrong credentials", async (t) => {
  const image = await pushed();
  let issued = 0;
  const realm = await tokenServer(t, (request) => {
    const url = new URL(request.url ?? "", "http://token");
    t.is(url.searchParams.get("service"), 'reg.example, the "one"');
    t.is(url.searchParams.get("scope"), `repository:${image.repository}:pull`);
    if (request.headers.authorization !== `Basic ${Buffer.from("u:p").toString("base64")}`) return undefined;
    issued += 1;
    return { token: `token-${issued}` };
  });
  let uses = 0;
  const header = `Bearer realm="${realm}",service="reg.example, the \\"one\\"",scope="repository:${image.repository}:pull"`;
  const proxy = await proxied(
    t,
    challenge(header, (authorization) => {
      uses += authorization === `Bearer token-${issued}` ? 1 : 0;
      if (uses === 3) return false; // it has expired in the middle of the pull
      return authorization === `Bearer token-${issued}`;
    }),
  );
  const { store } = await newStore(t);
  const refused = await t.throwsAsync(
    store.pull(ref(proxy.host, image), { credentials: { username: "u", password: "x" } }),
  );
  t.true(hasCode(refused, "unauthenticated"));
  t.is(
    (await store.pull(ref(proxy.host, image), { credentials: { username: "u", password: "p" } })).id,
    image.configDigest,
  );
  t.is(issued, 2);
});

test("bearer authentication: identity token by OAuth POST, registry token as it is", async (t) => {
  const image = await pushed();
  const realm = await tokenServer(t, (request, body) => {
    const form = new URLSearchParams(body);
    if (request.method !== "POST" || form.get("refresh_token") !== "identity") return undefined;
    return form.get("grant_type") === "refresh_token" ? { access_token: "access" } : undefined;
  });
  const header = `Bearer realm="${realm}",service="s"`;
  const accepted = ["Bearer access", "Bearer ready"];
  const proxy = await proxied(
    t,
    challenge(header, (authorization) => accepted.includes(authorization)),
  );
  for (const credentials of [{ identityToken: "identity" }, { registryToken: "ready" }]) {
    const { store } = await newStore(t);
    t.is((await store.pull(ref(proxy.host, image), { credentials })).id, image.configDigest);
  }
  const { store } = await newStore(t);
  const error = await t.throwsAsync(store.pull(ref(proxy.host, image), { credentials: { identityToken: "stolen" } }));
  t.true(hasCode(error, "unauthenticated"));
});

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

test("redirects are followed, without the credentials when the host changes", async (t) => {
  const image = await pushed();
  const storage = await proxied(t);
  const loop = await proxied(t, ({ request, response }) => {
    response.writeHead(307, { location: request.url });
    response.end();
    return true;
  });
  const proxy = await proxied(t, ({ request, response, blob }) => {
    if (request.headers.authorization === undefined) {
      response.writeHead(401, { "www-authenticate": "Basic" });
      response.end();
      return true;
    }
    if (!blob) return false;
    response.writeHead(307, { location: storage.url + request.url });
    response.end();
    return true;
  });
  const { store } = await newStore(t);
  const credentials = { username: "u", password: "p" };
  t.is((await store.pull(ref(proxy.host, image), { credentials })).id, image.configDigest);
  t.true(storage.requests.length >= 3);
  t.true(storage.requests.every(({ headers }) => headers.authorization === undefined));
  t.regex((await t.throwsAsync(store.pull(ref(loop.host, image)))).message, /more than 5 redirects/);
});

test("mirrors are asked in order, also those for all registries; the credentials stay with the registry itself", async (t) => {
  const image = await pushed();
  const broken = await proxied(t, ({ response }) => {
    response.writeHead(404);
    response.end();
    return true;
  });
  const mirror = await proxied(t, ({ request }) => {
    request.url = request.url?.replace("/prefix/", "/");
    return false;
  });
  const dead = `http://127.0.0.1:${await freePort()}`;
  const { store } = await newStore(t, {
    registries: {
      "*": { mirrors: [registry.url] },
      "docker.io": { mirrors: [dead, broken.url, mirror.url] },
    },
  });
  const credentials = { username: "u", password: "p" };
  const got = await store.pull(parseReference(`docker.io/${image.repository}:1`), { credentials });
  t.deepEqual(got.repoTags, [`docker.io/${image.repository}:1`]);
  t.true(broken.requests.length > 0);
  t.true(mirror.requests.every(({ headers }) => headers.authorization === undefined));
  const other = await store.pull(parseReference(`registry.example/${image.repository}:1`));
  t.is(other.id, got.id);
  t.is(other.repoTags.length, 2);
  const fails = await t.throwsAsync(store.pull(parseReference(`docker.io/${newRepository()}:1`)));
  t.true(fails.message.includes(dead) && fails.message.includes("; then "), fails.message);
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

test("TLS: an own authority is trusted when configured, refused otherwise, and anything when told so", async (t) => {
  const image = await pushed();
  const folder = await mkdtemp(join(tmpdir(), "podvm-tls-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const [key, certificate] = [join(folder, "key.pem"), join(folder, "cert.pem")];
  try {
    const subject = ["-subj", "/CN=podvm-test", "-addext", "subjectAltName=IP:127.0.0.1"];
    execFileSync(
      "openssl",
      ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate, ...subject],
      { stdio: "ignore" },
    );
  } catch {
    t.log("skipped: no openssl to make a certificate");
    t.pass();
    return;
  }
  const server = createTlsServer(
    { key: readFileSync(key), cert: readFileSync(certificate) },
    async (request, response) => {
      const answer = await fetch(registry.url + request.url, { headers: { accept: String(request.headers.accept) } });
      response.writeHead(answer.status, Object.fromEntries(answer.headers));
      response.end(Buffer.from(await answer.arrayBuffer()));
    },
  );
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.teardown(() => server.close());
  const address = server.address();
  const host = `127.0.0.1:${typeof address === "object" ? address?.port : ""}`;
  const tls = { plainHttp: false };
  const strange = await newStore(t, { registries: { [host]: tls } });
  t.regex((await t.throwsAsync(strange.store.pull(ref(host, image)))).message, /self-signed certificate.*ca_file/);
  for (const settings of [
    { ...tls, caFile: certificate },
    { ...tls, insecureTls: true },
  ]) {
    const { store } = await newStore(t, { registries: { [host]: settings } });
    t.is((await store.pull(ref(host, image))).id, image.configDigest);
  }
  const absent = await newStore(t, { registries: { [host]: { ...tls, caFile: join(folder, "none.pem") } } });
  t.true(hasCode(await t.throwsAsync(absent.store.pull(ref(host, image))), "failed_precondition"));
  const plainToTls = await newStore(t, { registries: { [registry.host]: tls } });
  t.regex((await t.throwsAsync(plainToTls.store.pull(ref(registry.host, image)))).message, /plain_http/);
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
