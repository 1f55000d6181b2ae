import { PodvmError } from "../../host/errors.js";
import { digestProblem } from "../reference.js";
import { checkConfigType, checkLayerType, type Descriptor, isIndex, isManifest, isSchema1 } from "./media-types.js";

export interface Manifest {
  config: Descriptor;
  layers: Descriptor[];
}

export interface IndexEntry extends Descriptor {
  os?: string;
  architecture?: string;
  variant?: string;
}

export type ManifestDocument = { kind: "manifest"; manifest: Manifest } | { kind: "index"; entries: IndexEntry[] };

const maxLayers = 500;
const maxIndexEntries = 1000;

/** What a registry sent as a manifest. Throws failed_precondition for forms that are not supported, invalid_argument for broken ones. */
export function parseManifest(bytes: Buffer, contentType: string, what: string): ManifestDocument {
  const bad = (why: string) => new PodvmError("invalid_argument", `${what}: ${why}`);
  const text = bytes.toString("utf8");
  if (!text.trimStart().startsWith("{")) throw bad("not a JSON object");
  let parsed: Record<string, unknown>;
  try {
    parsed = JSON.parse(text) as Record<string, unknown>;
  } catch (cause) {
    throw new PodvmError("invalid_argument", `${what}: not JSON`, { cause });
  }
  const stated = typeof parsed.mediaType === "string" ? parsed.mediaType : contentType;
  if (isSchema1(stated) || parsed.schemaVersion === 1) {
    throw new PodvmError(
      "failed_precondition",
      `${what}: docker's schema 1 manifests are not supported; push the image again with a current tool`,
    );
  }
  if (parsed.schemaVersion !== 2) throw bad(`schemaVersion is ${JSON.stringify(parsed.schemaVersion)}, wanted 2`);
  const hasManifests = Array.isArray(parsed.manifests);
  const hasLayers = Array.isArray(parsed.layers);
  if (hasManifests && hasLayers) throw bad("claims to be a manifest and an index at once");
  if (hasManifests && (isIndex(stated) || !isManifest(stated)))
    return { kind: "index", entries: parseIndex(parsed, bad) };
  if (hasLayers && (isManifest(stated) || !isIndex(stated))) {
    const layers = parsed.layers as unknown[];
    if (layers.length > maxLayers) throw bad(`has ${layers.length} layers; at most ${maxLayers}`);
    const config = descriptor(parsed.config, "config", bad);
    checkConfigType(config.mediaType);
    const checked = layers.map((layer, i) => descriptor(layer, `layer ${i}`, bad));
    for (const layer of checked) checkLayerType(layer.mediaType);
    return { kind: "manifest", manifest: { config, layers: checked } };
  }
  throw bad(`neither an image manifest nor an index (type ${JSON.stringify(stated.slice(0, 100))})`);
}

function parseIndex(parsed: Record<string, unknown>, bad: (why: string) => Error): IndexEntry[] {
  const manifests = parsed.manifests as unknown[];
  if (manifests.length > maxIndexEntries) throw bad(`has ${manifests.length} entries; at most ${maxIndexEntries}`);
  return manifests.map((value, i) => {
    const entry: IndexEntry = descriptor(value, `entry ${i}`, bad);
    const { platform } = value as { platform?: unknown };
    if (typeof platform !== "object" || platform === null) return entry;
    const { os, architecture, variant } = platform as Record<string, unknown>;
    if (typeof os === "string") entry.os = os;
    if (typeof architecture === "string") entry.architecture = architecture;
    if (typeof variant === "string") entry.variant = variant;
    return entry;
  });
}

function descriptor(value: unknown, what: string, bad: (why: string) => Error): Descriptor {
  if (typeof value !== "object" || value === null) throw bad(`${what} is no descriptor`);
  const { mediaType, digest, size } = value as Record<string, unknown>;
  if (typeof mediaType !== "string" || mediaType.length > 255) throw bad(`${what} has no media type`);
  if (typeof digest !== "string") throw bad(`${what} has no digest`);
  const problem = digestProblem(digest);
  if (problem) throw bad(`${what}: ${problem}`);
  if (typeof size !== "number" || !Number.isSafeInteger(size) || size < 0) throw bad(`${what} has no valid size`);
  return { mediaType, digest, size };
}

/**
 * The entry to run on linux/amd64. Among several, the one that asks least of the CPU (no variant, then v1 … v4). An entry without
 * a platform is taken only where no other fits; its configuration tells. Throws not_found with what there is.
 */
export function choosePlatform(entries: readonly IndexEntry[], what: string): IndexEntry {
  const usable = entries.filter((entry) => isManifest(entry.mediaType) || isIndex(entry.mediaType));
  const rank = (entry: IndexEntry) => ["", "v1", "v2", "v3", "v4"].indexOf(entry.variant ?? "");
  const fitting = usable
    .filter((entry) => entry.os === "linux" && entry.architecture === "amd64" && rank(entry) >= 0)
    .sort((a, b) => rank(a) - rank(b));
  const chosen = fitting[0] ?? usable.find((entry) => entry.os === undefined && entry.architecture === undefined);
  if (chosen) return chosen;
  const there = entries.map((entry) => [entry.os, entry.architecture, entry.variant].filter(Boolean).join("/"));
  const shown = [...new Set(there)].slice(0, 20).join(", ").slice(0, 400) || "nothing";
  throw new PodvmError("not_found", `${what}: no image for linux/amd64; there is ${shown}`);
}
