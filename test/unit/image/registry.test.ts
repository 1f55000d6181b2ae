import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { parseChallenges } from "../../../src/image/registry/challenge.js";
import { credentialsIn } from "../../../src/image/registry/docker-config.js";
import { parseImageConfig } from "../../../src/image/registry/image-config.js";
import { choosePlatform, type IndexEntry } from "../../../src/image/registry/manifest.js";
import { retryAfter } from "../../../src/image/registry/retry.js";
import { endpointsFor } from "../../../src/image/registry/settings.js";

test("challenges: several schemes, quoted commas and quotes, tokens, garbage", (t) => {
  const header =
    'Basic realm="a, \\"b\\"", Bearer realm="https://t/x?y=1",service=s , scope="repository:a/b:pull,push"';
  const [basic, bearer] = parseChallenges(header);
  t.deepEqual([basic?.scheme, basic?.parameters.get("realm")], ["basic", 'a, "b"']);
  t.is(bearer?.scheme, "bearer");
  t.deepEqual(Object.fromEntries(bearer?.parameters ?? []), {
    realm: "https://t/x?y=1",
    service: "s",
    scope: "repository:a/b:pull,push",
  });
  t.deepEqual(
    parseChallenges("Negotiate, BASIC").map(({ scheme }) => scheme),
    ["negotiate", "basic"],
  );
  t.deepEqual(parseChallenges(""), []);
  t.deepEqual(parseChallenges("="), []);
  t.true(parseChallenges(`Bearer ${'a="'.repeat(100_000)}`).length <= 2);
});

test("docker configuration: the forms that keys and credentials take", (t) => {
  const auth = (text: string) => Buffer.from(text).toString("base64");
  const file = JSON.stringify({
    auths: {
      "https://index.docker.io/v1/": { auth: auth("hub:pass") },
      "host:5000": { username: "u", password: "p", auth: auth("other:other") },
      "https://tok.example/v2/": { identitytoken: "id", auth: auth("x:") },
      "reg.example": { registrytoken: "reg" },
      "empty.example": {},
      "odd.example": "text",
    },
  });
  t.deepEqual(credentialsIn(file, "docker.io"), { username: "hub", password: "pass" });
  t.deepEqual(credentialsIn(file, "host:5000"), { username: "u", password: "p" });
  t.deepEqual(credentialsIn(file, "tok.example"), { identityToken: "id", username: "x", password: "" });
  t.deepEqual(credentialsIn(file, "reg.example"), { registryToken: "reg" });
  for (const registry of ["empty.example", "odd.example", "none.example"])
    t.is(credentialsIn(file, registry), undefined);
  for (const odd of ["{}", "null", '{"auths": []}', '{"auths": 3}']) t.is(credentialsIn(odd, "docker.io"), undefined);
  t.throws(() => credentialsIn("{", "docker.io"));
});

test("endpoints: docker.io's real host, loopback by HTTP, mirrors of the registry's own or of all", (t) => {
  const urls = (registry: string, config = {}) => endpointsFor(registry, config).map(({ url }) => url);
  t.deepEqual(urls("docker.io"), ["https://registry-1.docker.io"]);
  t.deepEqual(urls("quay.io"), ["https://quay.io"]);
  for (const host of ["localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"])
    t.deepEqual(urls(host), [`http://${host}`]);
  t.deepEqual(urls("localhost.example"), ["https://localhost.example"]);
  const config = {
    "*": { mirrors: ["http://all:1/"], plainHttp: false },
    "own.io": { mirrors: ["https://m1/p/", "http://m2"], plainHttp: true },
    "bare.io": {},
    "localhost:1": { plainHttp: false },
    m1: { caFile: "/ca.pem", insecureTls: true },
  };
  t.deepEqual(urls("own.io", config), ["https://m1/p", "http://m2", "http://own.io"]);
  t.like(endpointsFor("own.io", config)[0], {
    caFile: "/ca.pem",
    insecureTls: true,
    upstream: false,
    credentialsKey: "m1",
  });
  t.deepEqual(urls("other.io", config), ["http://all:1", "https://other.io"]);
  t.deepEqual(urls("localhost:2", config), ["http://all:1", "http://localhost:2"]);
  t.deepEqual(urls("localhost:1", config), ["https://localhost:1"]);
  t.deepEqual(urls("bare.io", config), ["https://bare.io"]);
  t.deepEqual(urls("__proto__", config), ["http://all:1", "https://__proto__"]);
  for (const bad of ["m1", "ftp://x"]) t.throws(() => endpointsFor("a.io", { "a.io": { mirrors: [bad] } }));
});

test("platform: amd64 only, least variant first, attestations never", (t) => {
  const entry = (digest: string, os?: string, architecture?: string, variant?: string): IndexEntry => ({
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    digest,
    size: 1,
    ...(os === undefined ? {} : { os }),
    ...(architecture === undefined ? {} : { architecture }),
    ...(variant === undefined ? {} : { variant }),
  });
  const v2 = entry("v2", "linux", "amd64", "v2");
  const plain = entry("plain", "linux", "amd64");
  const attestation = entry("att", "unknown", "unknown");
  const windows = entry("win", "windows", "amd64");
  const bare = entry("bare");
  t.is(choosePlatform([windows, v2, attestation, plain], "x").digest, "plain");
  t.is(choosePlatform([windows, v2, bare], "x").digest, "v2");
  t.is(choosePlatform([windows, bare, attestation], "x").digest, "bare");
  const strange = entry("strange", "linux", "amd64", "v9");
  const error = t.throws(() => choosePlatform([windows, attestation, strange], "x"));
  t.true(hasCode(error, "not_found"));
  t.regex(error.message, /windows\/amd64, unknown\/unknown, linux\/amd64\/v9/);
  t.regex(t.throws(() => choosePlatform([], "x")).message, /there is nothing/);
});

test("image configuration: absent fields are empty, wrong ones are named", (t) => {
  const base = { os: "linux", architecture: "amd64", rootfs: { type: "layers", diff_ids: [] } };
  const parse = (value: unknown) => parseImageConfig(Buffer.from(JSON.stringify(value)), "x");
  t.deepEqual(parse({ ...base, config: null }).run, {
    user: "",
    env: [],
    entrypoint: [],
    cmd: [],
    workingDir: "",
    stopSignal: "",
    labels: {},
    volumes: [],
    exposedPorts: [],
  });
  const bad: [unknown, RegExp][] = [
    [[], /no object/],
    [{ ...base, architecture: "arm64" }, /linux\/arm64, wanted linux\/amd64/],
    [{ ...base, os: "windows" }, /windows\/amd64/],
    [{ ...base, rootfs: undefined }, /rootfs is no object/],
    [{ ...base, rootfs: { type: "layers", diff_ids: ["sha256:../x"] } }, /digest/],
    [{ ...base, config: { Env: "A=b" } }, /Env is no list/],
    [{ ...base, config: { Cmd: [1] } }, /Cmd\[0\] is no text/],
    [{ ...base, config: { User: "a\0b" } }, /holds NUL/],
    [{ ...base, config: { Labels: { a: 1 } } }, /label a/],
    [{ ...base, config: { WorkingDir: "w".repeat(100_000) } }, /at most/],
  ];
  for (const [value, why] of bad) t.regex(t.throws(() => parse(value)).message, why);
  t.regex(t.throws(() => parseImageConfig(Buffer.from("{"), "x")).message, /not JSON/);
});

test("Retry-After: seconds, dates, nonsense, and never longer than half a minute", (t) => {
  t.is(retryAfter("2"), 2000);
  t.is(retryAfter("86400"), 30_000);
  t.is(retryAfter(new Date(Date.now() - 5000).toUTCString()), 0);
  t.is(retryAfter(new Date(Date.now() + 1e6).toUTCString()), 30_000);
  t.is(retryAfter("soon"), undefined);
  t.is(retryAfter(undefined), undefined);
});
