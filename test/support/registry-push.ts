import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { bundleTool } from "../../src/host/assets.js";
import { tool } from "./tools.js";

export interface PushOptions {
  /** host:port of a registry that speaks plain HTTP */
  host: string;
  repository: string;
  tag: string;
  /** Uncompressed tars, from the bottom. */
  layers: Buffer[];
  /** Fields of the configuration's `config` object: {Cmd, Env, User …}. */
  config?: Record<string, unknown>;
  /** Default "oci". */
  mediaTypes?: "oci" | "docker";
  /** Default "gzip". */
  compression?: "gzip" | "zstd" | "none";
  /** Default "amd64". */
  architecture?: string;
}

export interface Pushed {
  /** Digest of the manifest. */
  digest: string;
  manifestBytes: number;
  /** Digest of the configuration: the image's id. */
  configDigest: string;
  layerDigests: string[];
  diffIds: string[];
}

const types = {
  oci: {
    manifest: "application/vnd.oci.image.manifest.v1+json",
    index: "application/vnd.oci.image.index.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    layer: { none: "application/vnd.oci.image.layer.v1.tar", gzip: "+gzip", zstd: "+zstd" },
  },
  docker: {
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    index: "application/vnd.docker.distribution.manifest.list.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: { none: "application/vnd.docker.image.rootfs.diff.tar", gzip: ".gzip", zstd: ".zstd" },
  },
} as const;

/** Pushes an image by the distribution protocol. zstd layers are made with the runtime bundle's program. */
export async function pushImage(options: PushOptions): Promise<Pushed> {
  const { host, repository, tag, layers, config = {}, compression = "gzip", architecture = "amd64" } = options;
  const kind = types[options.mediaTypes ?? "oci"];
  const layerType = compression === "none" ? kind.layer.none : `${kind.layer.none}${kind.layer[compression]}`;
  const descriptors = [];
  for (const layer of layers) {
    const blob = compress(layer, compression);
    descriptors.push({ mediaType: layerType, digest: await pushBlob(host, repository, blob), size: blob.length });
  }
  const diffIds = layers.map(digestOf);
  const rootfs = { type: "layers", diff_ids: diffIds };
  const configBlob = Buffer.from(JSON.stringify({ architecture, os: "linux", config, rootfs }));
  const configDigest = await pushBlob(host, repository, configBlob);
  const manifest = {
    schemaVersion: 2,
    mediaType: kind.manifest,
    config: { mediaType: kind.config, digest: configDigest, size: configBlob.length },
    layers: descriptors,
  };
  const body = Buffer.from(JSON.stringify(manifest));
  await pushManifest({ host, repository, name: tag, mediaType: kind.manifest, body });
  return {
    digest: digestOf(body),
    manifestBytes: body.length,
    configDigest,
    layerDigests: descriptors.map(({ digest }) => digest),
    diffIds,
  };
}

/** Pushes an index over images that are in the repository. @returns its digest */
export async function pushIndex(options: {
  host: string;
  repository: string;
  tag: string;
  mediaTypes?: "oci" | "docker";
  images: { pushed: Pushed; platform: { os: string; architecture: string; variant?: string } }[];
}): Promise<string> {
  const kind = types[options.mediaTypes ?? "oci"];
  const manifests = options.images.map(({ pushed, platform }) => ({
    mediaType: kind.manifest,
    digest: pushed.digest,
    size: pushed.manifestBytes,
    platform,
  }));
  const body = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: kind.index, manifests }));
  await pushManifest({ ...options, name: options.tag, mediaType: kind.index, body });
  return digestOf(body);
}

export async function pushManifest(options: {
  host: string;
  repository: string;
  name: string;
  mediaType: string;
  body: Buffer;
}): Promise<void> {
  const { host, repository, name, mediaType, body } = options;
  const response = await fetch(`http://${host}/v2/${repository}/manifests/${name}`, {
    method: "PUT",
    headers: { "content-type": mediaType },
    body: new Uint8Array(body),
  });
  if (response.status !== 201) throw new Error(`push of manifest ${name}: ${response.status} ${await response.text()}`);
}

/** @returns the blob's digest */
export async function pushBlob(host: string, repository: string, blob: Buffer): Promise<string> {
  const digest = digestOf(blob);
  const base = `http://${host}/v2/${repository}/blobs`;
  const there = await fetch(`${base}/${digest}`, { method: "HEAD" });
  if (there.ok) return digest;
  const begun = await fetch(`${base}/uploads/`, { method: "POST" });
  const location = begun.headers.get("location");
  if (begun.status !== 202 || location === null) throw new Error(`push of a blob: ${begun.status}`);
  const url = new URL(location, `http://${host}`);
  url.searchParams.set("digest", digest);
  const done = await fetch(url, {
    method: "PUT",
    headers: { "content-type": "application/octet-stream" },
    body: new Uint8Array(blob),
  });
  if (done.status !== 201) throw new Error(`push of a blob: ${done.status} ${await done.text()}`);
  return digest;
}

export function digestOf(bytes: Buffer): string {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}`;
}

/** The runtime bundle that setup made for the tests. */
export function testAssets(): { bundle: string } {
  return { bundle: join(tool("assets"), "bundle/current") };
}

function compress(layer: Buffer, compression: "gzip" | "zstd" | "none"): Buffer {
  if (compression === "gzip") return gzipSync(layer, { level: 1 });
  if (compression === "zstd")
    return execFileSync(bundleTool(testAssets(), "zstd"), ["-c", "-q", "-1"], { input: layer, maxBuffer: 2 ** 31 - 1 });
  return layer;
}
