/** The content-addressed folders below the assets folder: `<kind>/<digest16>`, and the link `<kind>/current` to one of them. */
import { readdir, readlink } from "node:fs/promises";
import { errno } from "../host/errors.js";

export const assetKinds = ["bundle", "guest"] as const;
export type AssetKind = (typeof assetKinds)[number];

export interface AssetFolder {
  kind: AssetKind;
  digest: string;
  path: string;
  /** `current` points to it: new pods get it. */
  current: boolean;
}

/** Every finished version that is installed, by kind and digest. Empty where nothing is. */
export async function installedAssets(assetsDir: string): Promise<AssetFolder[]> {
  const lists = await Promise.all(assetKinds.map((kind) => installed(assetsDir, kind)));
  return lists.flat();
}

async function installed(assetsDir: string, kind: AssetKind): Promise<AssetFolder[]> {
  const folder = `${assetsDir}/${kind}`;
  const [names, current] = await Promise.all([
    readdir(folder).catch(none([])),
    readlink(`${folder}/current`).catch(none("")),
  ]);
  return names
    .filter((name) => /^[0-9a-f]{16}$/.test(name)) // builds under way have other names
    .sort()
    .map((digest) => ({ kind, digest, path: `${folder}/${digest}`, current: digest === current }));
}

function none<T>(value: T): (err: unknown) => T {
  return (err) => {
    if (errno(err) === "ENOENT") return value;
    throw err;
  };
}
