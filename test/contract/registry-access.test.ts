import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ExecutionContext } from "ava";
import { hasCode } from "../../src/host/errors.js";
import { parseReference } from "../../src/image/reference.js";
import { freePort } from "../support/registry.js";
import { newRepository, newStore } from "./image-host.js";
import type { Fault } from "./registry-proxy.js";
import { proxied, pushed, ref, registry, test } from "./registry-rig.js";

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
