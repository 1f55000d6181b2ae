import { open, rename } from "node:fs/promises";
import { join } from "node:path";
import { syncFolder } from "../../host/files.js";
import { ImageTree } from "../erofs/tree.js";
import { writeErofs } from "../erofs/writer.js";
import { fileName, type StoreFiles, sha256 } from "./files.js";
import type { LayerStore } from "./layers.js";

export interface MadeIndex {
  indexBytes: number;
  deviceLayers: { diffId: string; bytes: number }[];
}

/** Merges the layers (which are here, and held) into one EROFS index at its place in the store. Durable when it resolves. */
export async function makeImageIndex(
  imageId: string,
  diffIds: readonly string[],
  maxEntries: number,
  files: StoreFiles,
  layers: LayerStore,
): Promise<MadeIndex> {
  const tree = new ImageTree(maxEntries);
  const unique = [...new Set(diffIds)]; // a layer that comes twice has its bytes on the device once
  for (const diffId of diffIds) await tree.apply(await layers.entries(diffId), unique.indexOf(diffId));
  const sizes = unique.map((diffId) => ({ bytes: layers.bytes(diffId) }));
  const uuid = Buffer.from(sha256(imageId).slice("sha256:".length), "hex").subarray(0, 16);
  const index = await writeErofs(tree.root, sizes, uuid);
  await files.inWorkFolder(async (folder) => {
    const path = join(folder, fileName(imageId));
    const file = await open(path, "wx", 0o444);
    try {
      await file.writeFile(index.bytes);
      await file.datasync();
    } finally {
      await file.close();
    }
    await rename(path, files.imageIndex(imageId));
    await syncFolder(files.images);
  });
  const deviceLayers = index.layers.map((number) => {
    const diffId = unique[number] as string;
    return { diffId, bytes: layers.bytes(diffId) };
  });
  return { indexBytes: index.bytes.length, deviceLayers };
}
