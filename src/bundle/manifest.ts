/** What the manifest.json of the asset folders says. Written by bundle/build.sh and guest/image/mkimage.mjs. */
import * as v from "valibot";
import { PodvmError } from "../host/errors.js";
import { readFileIfThere } from "../host/files.js";

const text = v.pipe(v.string(), v.minLength(1), v.maxLength(200));
const folderDigest = v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/, "wanted 16 hexadecimal digits"));
const sha256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "wanted 64 hexadecimal digits"));

const BundleManifest = v.object({
  /** Of the pins, the recipe and the place: the folder's name. */
  digest: folderDigest,
  /** Of the pins and the recipe alone. */
  inputs: sha256,
  /** Debian's release name. */
  suite: text,
  /** Versions of what users know by name: qemu, kernel, crun, erofs-utils … */
  tools: v.record(v.string(), text),
  /** False: Debian had replaced some of the pinned versions, and its newest were taken. */
  pinned: v.optional(v.boolean(), true),
  /** Debian packages of which files are kept; their licences are in licenses/. */
  packages: v.array(v.object({ name: text, version: text })),
});

const GuestManifest = v.object({
  /** Of all inputs: the folder's name. */
  digest: folderDigest,
  /** uname -r. */
  kernel: text,
  crun: text,
  agentSha256: sha256,
  /** What to boot the kernel with. */
  cmdline: v.pipe(v.string(), v.maxLength(2000)),
  /** Loaded by the agent at start, in this order. */
  modules: v.array(text),
  files: v.object({ vmlinux: sha256, initrd: sha256 }),
});

export type BundleManifest = v.InferOutput<typeof BundleManifest>;
export type GuestManifest = v.InferOutput<typeof GuestManifest>;

/** folder: `Assets.bundle`. Rejects with failed_precondition where the manifest is missing or not as above. */
export function readBundleManifest(folder: string): Promise<BundleManifest> {
  return read(folder, BundleManifest, "runtime bundle");
}

/** folder: `Assets.guest`. Rejects as readBundleManifest does. */
export function readGuestManifest(folder: string): Promise<GuestManifest> {
  return read(folder, GuestManifest, "guest image");
}

async function read<T extends v.GenericSchema>(folder: string, schema: T, what: string): Promise<v.InferOutput<T>> {
  const path = `${folder}/manifest.json`;
  const found = await readFileIfThere(path);
  if (found === undefined) throw unusable(what, path, "nothing there");
  let value: unknown;
  try {
    value = JSON.parse(found);
  } catch (cause) {
    throw unusable(what, path, "no JSON", cause);
  }
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw unusable(what, path, `${v.getDotPath(issue) ?? "the document"}: ${issue.message}`);
}

function unusable(what: string, path: string, found: string, cause?: unknown): PodvmError {
  const message = `wanted the ${what}'s manifest at ${path}, found ${found}; run \`make setup\``;
  return new PodvmError("failed_precondition", message, { cause });
}
