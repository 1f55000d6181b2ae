import { createHash } from "node:crypto";
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { type Assets, bundleTool } from "../host/assets.js";
import { PodvmError } from "../host/errors.js";
import { KeyedLock } from "../host/keyed-lock.js";
import type { Logger } from "../host/log.js";
import type {
  Image,
  ImageDevice,
  ImageFsUsage,
  ImageStore,
  PullOptions,
  PullProgress,
  RegistryCredentials,
} from "./image.js";
import { defaultImageLimits, type ImageLimits } from "./limits.js";
import { formatReference, type ImageReference, parseReference, repositoryName } from "./reference.js";
import { fetchBlob } from "./registry/blob.js";
import type { Descriptor } from "./registry/media-types.js";
import type { RegistriesConfig } from "./registry/settings.js";
import { ImageSource, type ResolvedImage } from "./registry/source.js";
import { Semaphore } from "./semaphore.js";
import { SharedWork } from "./shared-work.js";
import { Catalog, catalogName, documentVersion, type ImageDocument } from "./store/catalog.js";
import { fileName, StoreFiles, spaceError } from "./store/files.js";
import { makeImageIndex } from "./store/image-index.js";
import { LayerStore } from "./store/layers.js";

export interface ImageStoreOptions {
  /** The store is in <stateDir>/images. */
  stateDir: string;
  assets: Pick<Assets, "bundle">;
  registries?: RegistriesConfig;
  /** Docker configuration files for credentials, asked in order. */
  dockerConfigPaths?: readonly string[];
  /** References of images that kubelet must not collect. */
  pinned?: readonly string[];
  limits?: Partial<ImageLimits>;
  logger: Logger;
}

export function createImageStore(options: ImageStoreOptions): ImageStore {
  return new FileImageStore(options);
}

/**
 * Images as files. An image is its layers' tars as they are plus one EROFS index over them; nothing is ever extracted on the host.
 * Order of writes of a pull: layers (file, then document), index, image document, names. Of a removal: names, image document,
 * index, layers. So a crash leaves at most files that nothing names, which `open` removes.
 */
class FileImageStore implements ImageStore {
  private readonly files: StoreFiles;
  private readonly layers: LayerStore;
  private readonly catalog: Catalog;
  private readonly limits: ImageLimits;
  private readonly pulls = new SharedWork<Image, PullProgress>();
  private readonly fetches = new SharedWork<void, PullProgress>();
  private readonly slots: Semaphore;
  private readonly lock = new KeyedLock();

  constructor(private readonly options: ImageStoreOptions) {
    this.files = new StoreFiles(join(options.stateDir, "images"));
    this.layers = new LayerStore(this.files);
    const pinned = (options.pinned ?? []).map((text) => catalogName(parseReference(text)));
    this.catalog = new Catalog(this.files, new Set(pinned));
    this.limits = { ...defaultImageLimits, ...options.limits };
    this.slots = new Semaphore(this.limits.layersAtOnce);
  }

  async open(): Promise<void> {
    for (const [registry, { insecureTls }] of Object.entries(this.options.registries ?? {})) {
      if (insecureTls) this.options.logger.warn("registry certificates are not verified (insecure_tls)", { registry });
    }
    await this.files.prepare();
    const sweptLayers = await this.layers.load();
    const sweptImages = await this.catalog.load(async (image) => {
      const whole = image.layers.every((diffId) => this.layers.has(diffId)) && (await this.devicePresent(image));
      if (!whole) this.options.logger.warn("image dropped: parts of it are missing", { image: image.imageId });
      return whole;
    });
    await this.layers.collect(this.usedLayers());
    const swept = sweptLayers.length + sweptImages.length;
    if (swept > 0) this.options.logger.info("removed what interrupted pulls or removals left", { files: swept });
  }

  async pull(reference: ImageReference, options: PullOptions = {}): Promise<Image> {
    const { credentials, onProgress = () => {}, signal } = options;
    const key = `${formatReference(reference)} ${credentialsKey(credentials)}`;
    return this.pulls.join(
      key,
      (report, abort) => this.pullOnce(reference, credentials, report, abort),
      onProgress,
      signal,
    );
  }

  find(name: string): Image | undefined {
    const found = this.catalog.find(name);
    return found && this.catalog.toImage(found.image);
  }

  list(): Image[] {
    return this.catalog.all().map((image) => this.catalog.toImage(image));
  }

  async remove(name: string): Promise<void> {
    await this.locked(async () => {
      const found = this.catalog.find(name);
      if (!found) return;
      const names = this.catalog.namesOf(found.image.imageId);
      await this.catalog.drop(new Set(found.name === undefined ? names : namesGoneWith(found.name, names)));
      await this.layers.collect(this.usedLayers());
    });
  }

  async device(imageId: string): Promise<ImageDevice> {
    const image = this.catalog.get(imageId);
    if (!image) throw new PodvmError("not_found", `no image ${imageId}; pull it first`);
    if (!(await this.devicePresent(image))) {
      throw new PodvmError(
        "internal",
        `files of image ${imageId} are missing under ${this.files.root}; remove and pull it again`,
      );
    }
    return { imageId, extents: this.extents(image), wholePath: this.files.imageWhole(imageId) };
  }

  async usage(): Promise<ImageFsUsage> {
    const { layers, bytes } = this.layers.totals();
    const images = this.catalog.all();
    const indexes = images.reduce((sum, { indexBytes }) => sum + indexBytes, 0);
    const found = await Promise.all(
      images.map(({ imageId }) => stat(this.files.imageWhole(imageId)).catch(() => undefined)),
    );
    const wholes = found.flatMap((whole) => whole?.size ?? []);
    return {
      mountpoint: this.files.root,
      usedBytes: wholes.reduce((sum, size) => sum + size, bytes + indexes),
      inodesUsed: layers * 3 + images.length * 2 + wholes.length + 1, // .tar .entries .json; .erofs .json .whole; names.json
    };
  }

  private async pullOnce(
    reference: ImageReference,
    credentials: RegistryCredentials | undefined,
    report: (progress: PullProgress) => void,
    abort: AbortSignal,
  ): Promise<Image> {
    const { registries = {}, dockerConfigPaths = [], logger } = this.options;
    const late = AbortSignal.timeout(this.limits.pullMs);
    const signal = AbortSignal.any([abort, late]);
    const source = await ImageSource.open(reference, credentials, {
      registries,
      dockerConfigPaths,
      limits: this.limits,
      logger,
    });
    try {
      report({ item: "manifest", state: "downloading", doneBytes: 0, totalBytes: 0 });
      const resolved = await source.resolve(signal);
      report({ item: "manifest", state: "done", doneBytes: 0, totalBytes: 0 });
      return await this.store(reference, resolved, source, report, signal);
    } catch (err) {
      if (late.aborted) {
        throw new PodvmError(
          "deadline_exceeded",
          `pull of ${formatReference(reference)}: not done within ${this.limits.pullMs} ms`,
          { cause: err },
        );
      }
      throw spaceError(err, this.files.root);
    } finally {
      await source.close();
    }
  }

  private async store(
    reference: ImageReference,
    resolved: ResolvedImage,
    source: ImageSource,
    report: (progress: PullProgress) => void,
    signal: AbortSignal,
  ): Promise<Image> {
    const imageId = resolved.configDescriptor.digest;
    const { diffIds } = resolved.config;
    const names = namesFor(reference, resolved.digest);
    const release = this.layers.hold(diffIds);
    try {
      const there = this.catalog.get(imageId);
      if (!there) await this.fetchLayers(resolved, source, report, signal);
      return await this.locked(async () => {
        let image = this.catalog.get(imageId);
        if (!image) {
          if (there) await this.fetchLayers(resolved, source, report, signal); // removed since the look above
          report({ item: "index", state: "unpacking", doneBytes: 0, totalBytes: 0 });
          image = await this.makeImage(resolved);
        }
        signal.throwIfAborted();
        await this.catalog.put(image, names);
        report({ item: "index", state: "done", doneBytes: image.indexBytes, totalBytes: image.indexBytes });
        return this.catalog.toImage(image);
      });
    } finally {
      release();
      await this.locked(() => this.layers.collect(this.usedLayers()));
    }
  }

  private async makeImage({ config, configDescriptor }: ResolvedImage): Promise<ImageDocument> {
    const imageId = configDescriptor.digest;
    const made = await makeImageIndex(imageId, config.diffIds, this.limits.maxEntries, this.files, this.layers);
    const layerBytes = [...new Set(config.diffIds)].reduce((sum, diffId) => sum + this.layers.bytes(diffId), 0);
    return {
      version: documentVersion,
      id: fileName(imageId),
      imageId,
      platform: config.platform,
      config: config.run,
      layers: config.diffIds,
      ...made,
      size: layerBytes + made.indexBytes,
    };
  }

  private async fetchLayers(
    { config, layers }: ResolvedImage,
    source: ImageSource,
    report: (progress: PullProgress) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const wanted = new Map<string, Descriptor>();
    config.diffIds.forEach((diffId, i) => {
      const layer = layers[i] as Descriptor;
      if (this.layers.has(diffId))
        report({ item: layer.digest, state: "exists", doneBytes: layer.size, totalBytes: layer.size });
      else wanted.set(diffId, layer);
    });
    const compressed = [...wanted.values()].reduce((sum, { size }) => sum + size, 0);
    await this.files.checkSpace(compressed, this.limits.keepFreeBytes, "the image");
    for (const { digest, size } of wanted.values())
      report({ item: digest, state: "waiting", doneBytes: 0, totalBytes: size });

    const own = new Semaphore(this.limits.layersPerPull);
    const failed = new AbortController();
    const stop = AbortSignal.any([signal, failed.signal]);
    const results = await Promise.allSettled(
      [...wanted].map(([diffId, layer]) =>
        own
          .run(() => this.fetchLayer(diffId, layer, source, report, stop), stop)
          .catch((err) => {
            failed.abort(err); // one layer is missing: the others are of no use
            throw err;
          }),
      ),
    );
    if (failed.signal.aborted) throw failed.signal.reason;
    signal.throwIfAborted();
    for (const result of results) if (result.status === "rejected") throw result.reason;
    const unpacked = [...new Set(config.diffIds)].reduce((sum, diffId) => sum + this.layers.bytes(diffId), 0);
    if (unpacked > this.limits.maxUnpackedBytes) {
      throw new PodvmError(
        "resource_exhausted",
        `image unpacks to ${unpacked} bytes; at most ${this.limits.maxUnpackedBytes} (image.max_unpacked_gib)`,
      );
    }
  }

  /** Another pull that wants the same layer joins; when the one that fetches it fails, the joined try from their own source. */
  private async fetchLayer(
    diffId: string,
    layer: Descriptor,
    source: ImageSource,
    report: (progress: PullProgress) => void,
    signal: AbortSignal,
  ): Promise<void> {
    while (!this.layers.has(diffId)) {
      let mine = false;
      try {
        await this.fetches.join(
          diffId,
          (tell, stop) => {
            mine = true;
            return this.slots.run(() => this.fetchFrom(source, diffId, layer, tell, stop), stop);
          },
          (progress) => report({ ...progress, item: layer.digest }),
          signal,
        );
      } catch (err) {
        if (mine || signal.aborted) throw err;
      }
    }
  }

  private async fetchFrom(
    source: ImageSource,
    diffId: string,
    layer: Descriptor,
    tell: (progress: PullProgress) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const { maxUnpackedBytes, maxEntries, maxMetadataBytes } = this.limits;
    const { digest, size } = layer;
    await source.fromAny(
      digest,
      async (client) => {
        const bytes = fetchBlob(
          client,
          layer,
          (doneBytes) => tell({ item: digest, state: "downloading", doneBytes, totalBytes: size }),
          signal,
        );
        await this.layers.add(bytes, {
          diffId,
          zstd: bundleTool(this.options.assets, "zstd"),
          limits: { maxLayerBytes: maxUnpackedBytes, maxEntries, maxMetadataBytes },
          signal,
        });
      },
      signal,
    );
    tell({ item: digest, state: "done", doneBytes: size, totalBytes: size });
  }

  private extents({ imageId, indexBytes, deviceLayers }: ImageDocument): ImageDevice["extents"] {
    return [
      { path: this.files.imageIndex(imageId), bytes: indexBytes },
      ...deviceLayers.map(({ diffId, bytes }) => ({ path: this.files.layerTar(diffId), bytes })),
    ];
  }

  private async devicePresent(image: ImageDocument): Promise<boolean> {
    for (const { path, bytes } of this.extents(image)) {
      const found = await stat(path).catch(() => undefined);
      if (found === undefined || found.size < bytes) return false;
    }
    return true;
  }

  private usedLayers(): Set<string> {
    return new Set(this.catalog.all().flatMap(({ layers }) => layers));
  }

  private locked<T>(work: () => Promise<T>): Promise<T> {
    return this.lock.run("catalog", work);
  }
}

/** A tag pull gives the tag and the digest it means now; a digest pull only the digest, whatever tag stands beside it. */
function namesFor(reference: ImageReference, digest: string): string[] {
  const byDigest = `${repositoryName(reference)}@${digest}`;
  return reference.digest === undefined ? [formatReference(reference), byDigest] : [byDigest];
}

/** The digest references of a repository go with the image's last tag there, as docker does it: a tag pull made both. */
function namesGoneWith(name: string, names: readonly string[]): string[] {
  if (name.includes("@")) return [name];
  const repository = name.slice(0, name.lastIndexOf(":"));
  const isTag = (other: string) => !other.includes("@") && other.slice(0, other.lastIndexOf(":")) === repository;
  if (names.some((other) => other !== name && isTag(other))) return [name];
  return [name, ...names.filter((other) => other.startsWith(`${repository}@`))];
}

/** Two pulls share their work only with the same credentials: one must not ride on what another may see. */
function credentialsKey(credentials: RegistryCredentials | undefined): string {
  return createHash("sha256")
    .update(JSON.stringify(credentials ?? null))
    .digest("hex");
}
