import { rm } from "node:fs/promises";
import { DocumentStore, type StoredDocument } from "../../host/document-store.js";
import type { Image, ImageRunConfig } from "../image.js";
import { formatReference, type ImageReference, parseReference, repositoryName } from "../reference.js";
import { fileName, type StoreFiles } from "./files.js";

export interface ImageDocument extends StoredDocument {
  /** sha256:… */
  imageId: string;
  platform: string;
  config: ImageRunConfig;
  /** diffIDs of all its layers, from the bottom. */
  layers: string[];
  /** Of the EROFS index. */
  indexBytes: number;
  /** The layers whose files follow the index on the image's device, in order. */
  deviceLayers: { diffId: string; bytes: number }[];
  size: number;
}

interface NamesDocument extends StoredDocument {
  /** Full tag and digest references → image id. */
  names: Record<string, string>;
}

export const documentVersion = 1;
const namesId = "names";

/**
 * Which images are here, and by which names. All names are in one document: moving a tag from one image to another is one
 * atomic write. An image without a name does not exist; its document is garbage of a pull or removal that a crash cut short.
 */
export class Catalog {
  private readonly imageDocuments: DocumentStore<ImageDocument>;
  private readonly nameDocuments: DocumentStore<NamesDocument>;
  private readonly images = new Map<string, ImageDocument>();
  private names = new Map<string, string>();

  constructor(
    private readonly files: StoreFiles,
    private readonly pinned: ReadonlySet<string>,
  ) {
    this.imageDocuments = new DocumentStore(files.images, documentVersion);
    this.nameDocuments = new DocumentStore(files.names, documentVersion);
  }

  /** @param usable whether all parts of an image are there; others are dropped with their names. @returns the files removed */
  async load(usable: (image: ImageDocument) => Promise<boolean>): Promise<string[]> {
    const [document] = await this.nameDocuments.load();
    const names = new Map(Object.entries(document?.names ?? {}));
    const named = new Set(names.values());
    for (const image of await this.imageDocuments.load()) {
      if (named.has(image.imageId) && (await usable(image))) this.images.set(image.imageId, image);
    }
    const kept = new Map([...names].filter(([, imageId]) => this.images.has(imageId)));
    if (kept.size !== names.size) await this.saveNames(kept);
    this.names = kept;
    return this.files.sweep(this.files.images, new Set([...this.images.keys()].map(fileName)));
  }

  get(imageId: string): ImageDocument | undefined {
    return this.images.get(imageId);
  }

  all(): ImageDocument[] {
    return [...this.images.values()];
  }

  /** Adds the image (if it is not there) and its names. Durable when it resolves. */
  async put(image: ImageDocument, names: readonly string[]): Promise<void> {
    if (!this.images.has(image.imageId)) await this.imageDocuments.put(image);
    const next = new Map(this.names);
    for (const name of names) next.set(name, image.imageId);
    await this.saveNames(next);
    this.images.set(image.imageId, image);
    this.names = next;
    await this.removeNameless();
  }

  /** Takes names away, and the images that are then without. */
  async drop(gone: ReadonlySet<string>): Promise<void> {
    const next = new Map([...this.names].filter(([name]) => !gone.has(name)));
    await this.saveNames(next);
    this.names = next;
    await this.removeNameless();
  }

  namesOf(imageId: string): string[] {
    return [...this.names].filter(([, id]) => id === imageId).map(([name]) => name);
  }

  /**
   * By reference, by id with or without its algorithm, or by the beginning of an id where only one image has it.
   * @returns the image, and the reference by which it was found (undefined: by its id)
   */
  find(text: string): { image: ImageDocument; name: string | undefined } | undefined {
    const byId = this.images.get(text) ?? this.images.get(`sha256:${text}`);
    if (byId) return { image: byId, name: undefined };
    const name = nameIn(text);
    const named = name === undefined ? undefined : this.images.get(this.names.get(name) ?? "");
    if (named) return { image: named, name };
    const hex = text.replace(/^sha256:/, "");
    if (!/^[0-9a-f]{3,63}$/.test(hex)) return undefined;
    const matches = this.all().filter(({ imageId }) => imageId.startsWith(`sha256:${hex}`));
    return matches.length === 1 && matches[0] ? { image: matches[0], name: undefined } : undefined;
  }

  toImage({ imageId, platform, config, size }: ImageDocument): Image {
    const names = this.namesOf(imageId).sort();
    return {
      id: imageId,
      repoTags: names.filter((name) => !name.includes("@")),
      repoDigests: names.filter((name) => name.includes("@")),
      size,
      pinned: names.some((name) => this.pinned.has(name)),
      config,
      platform,
    };
  }

  private async saveNames(names: ReadonlyMap<string, string>): Promise<void> {
    await this.nameDocuments.put({ version: documentVersion, id: namesId, names: Object.fromEntries(names) });
  }

  private async removeNameless(): Promise<void> {
    const named = new Set(this.names.values());
    for (const [imageId, { id }] of [...this.images]) {
      if (named.has(imageId)) continue;
      this.images.delete(imageId);
      await this.imageDocuments.delete(id);
      await rm(this.files.imageIndex(imageId), { force: true });
      await rm(this.files.imageWhole(imageId), { force: true });
    }
  }
}

/** The one name that a reference is kept under: the digest where it has one, else the tag. */
export function catalogName(reference: ImageReference): string {
  return reference.digest === undefined
    ? formatReference(reference)
    : `${repositoryName(reference)}@${reference.digest}`;
}

function nameIn(text: string): string | undefined {
  try {
    return catalogName(parseReference(text));
  } catch {
    return undefined; // not a reference: it may be the beginning of an id
  }
}
