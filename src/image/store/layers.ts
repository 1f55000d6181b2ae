import { rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { DocumentStore, type StoredDocument } from "../../host/document-store.js";
import { syncFolder } from "../../host/files.js";
import type { LayerEntry } from "../layer/entry.js";
import { type UnpackedLayer, type UnpackOptions, unpackLayer } from "../layer/unpack.js";
import { readEntries, writeEntries } from "./entries-file.js";
import { fileName, type StoreFiles } from "./files.js";

interface LayerDocument extends StoredDocument {
  diffId: string;
  /** Of the .tar file. */
  bytes: number;
}

const documentVersion = 1;

/** The layers that are here, by diffID. Those that a pull under way counts on are held, so that a removal leaves them. */
export class LayerStore {
  private readonly documents: DocumentStore<LayerDocument>;
  private readonly known = new Map<string, LayerDocument>();
  private readonly holds = new Map<string, number>();

  constructor(private readonly files: StoreFiles) {
    this.documents = new DocumentStore(files.layers, documentVersion);
  }

  /** Loads the documents; files without one are removed. @returns what was removed */
  async load(): Promise<string[]> {
    for (const document of await this.documents.load()) this.known.set(document.diffId, document);
    return this.files.sweep(this.files.layers, new Set([...this.known.keys()].map(fileName)));
  }

  has(diffId: string): boolean {
    return this.known.has(diffId);
  }

  bytes(diffId: string): number {
    return this.known.get(diffId)?.bytes ?? 0;
  }

  totals(): { layers: number; bytes: number } {
    let bytes = 0;
    for (const layer of this.known.values()) bytes += layer.bytes;
    return { layers: this.known.size, bytes };
  }

  entries(diffId: string): Promise<LayerEntry[]> {
    return readEntries(this.files.layerEntries(diffId));
  }

  hold(diffIds: Iterable<string>): () => void {
    const held = [...diffIds];
    for (const diffId of held) this.holds.set(diffId, (this.holds.get(diffId) ?? 0) + 1);
    return () => {
      for (const diffId of held.splice(0)) {
        const left = (this.holds.get(diffId) ?? 1) - 1;
        if (left > 0) this.holds.set(diffId, left);
        else this.holds.delete(diffId);
      }
    };
  }

  /** Unpacks a layer and keeps it. The caller holds it, and makes sure that no other adds the same at once. */
  async add(compressed: AsyncIterable<Buffer>, options: Omit<UnpackOptions, "path">): Promise<void> {
    const { diffId } = options;
    await this.files.inWorkFolder(async (folder) => {
      const tar = join(folder, "tar");
      const entriesFile = join(folder, "entries");
      const unpacked: UnpackedLayer = await unpackLayer(compressed, { ...options, path: tar });
      await writeEntries(entriesFile, unpacked.entries);
      await rename(tar, this.files.layerTar(diffId));
      await rename(entriesFile, this.files.layerEntries(diffId));
      await syncFolder(this.files.layers);
      const document = { version: documentVersion, id: fileName(diffId), diffId, bytes: unpacked.bytes };
      await this.documents.put(document);
      this.known.set(diffId, document);
    });
  }

  /** Removes the layers that are neither in `used` nor held. */
  async collect(used: ReadonlySet<string>): Promise<void> {
    for (const [diffId, { id }] of [...this.known]) {
      if (used.has(diffId) || this.holds.has(diffId)) continue;
      this.known.delete(diffId);
      await this.documents.delete(id);
      await rm(this.files.layerTar(diffId), { force: true });
      await rm(this.files.layerEntries(diffId), { force: true });
    }
  }
}
