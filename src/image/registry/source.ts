import { createHash } from "node:crypto";
import { hasCode, messageOf, PodvmError } from "../../host/errors.js";
import type { Logger } from "../../host/log.js";
import type { RegistryCredentials } from "../image.js";
import type { ImageLimits } from "../limits.js";
import { formatReference, type ImageReference } from "../reference.js";
import { dockerConfigCredentials } from "./docker-config.js";
import { type ImageConfig, parseImageConfig } from "./image-config.js";
import { choosePlatform, type Manifest, parseManifest } from "./manifest.js";
import { acceptManifests, type Descriptor } from "./media-types.js";
import { RepositoryClient } from "./repository.js";
import { type Endpoint, endpointsFor, type RegistriesConfig } from "./settings.js";

export interface SourceOptions {
  registries: RegistriesConfig;
  dockerConfigPaths: readonly string[];
  limits: ImageLimits;
  logger: Logger;
}

export interface ResolvedImage {
  /** Of what the reference names: an index or a manifest. */
  digest: string;
  config: ImageConfig;
  configDescriptor: Descriptor;
  /** In the order of `config.diffIds`. */
  layers: Descriptor[];
}

/** How deep indexes may nest. */
const maxIndexes = 3;

/** Where one image can be had: mirrors and the registry itself, in order, with the credentials for each. */
export class ImageSource {
  private constructor(
    private readonly reference: ImageReference,
    private readonly clients: RepositoryClient[],
    private readonly limits: ImageLimits,
    private readonly logger: Logger,
  ) {}

  static async open(
    reference: ImageReference,
    credentials: RegistryCredentials | undefined,
    options: SourceOptions,
  ): Promise<ImageSource> {
    const { registries, dockerConfigPaths, limits, logger } = options;
    const credentialsFor = (endpoint: Endpoint) =>
      endpoint.upstream && credentials !== undefined
        ? credentials
        : dockerConfigCredentials(dockerConfigPaths, endpoint.credentialsKey, logger);
    const clients = await Promise.all(
      endpointsFor(reference.registry, registries).map(
        async (endpoint) =>
          new RepositoryClient({
            endpoint,
            repository: reference.repository,
            credentials: await credentialsFor(endpoint),
            times: limits,
            attempts: limits.attempts,
          }),
      ),
    );
    return new ImageSource(reference, clients, limits, logger);
  }

  /** Manifest and configuration, each checked against its digest and bounded. The place that had them is asked first from then on. */
  resolve(signal?: AbortSignal): Promise<ResolvedImage> {
    return this.fromAny(formatReference(this.reference), (client) => this.resolveAt(client, signal), signal);
  }

  /** Runs `work` with one place after another until it succeeds. Full disks and cancellation are not tried elsewhere. */
  async fromAny<T>(what: string, work: (client: RepositoryClient) => Promise<T>, signal?: AbortSignal): Promise<T> {
    const failures: unknown[] = [];
    for (const client of [...this.clients]) {
      try {
        const result = await work(client);
        this.clients.sort((a, b) => Number(b === client) - Number(a === client));
        return result;
      } catch (err) {
        if (signal?.aborted || !(err instanceof PodvmError) || hasCode(err, "resource_exhausted")) throw err;
        this.logger.debug("registry failed", { image: what, endpoint: client.name, reason: messageOf(err) });
        failures.push(err);
      }
    }
    if (failures.length === 1) throw failures[0];
    const last = PodvmError.from(failures.at(-1));
    throw new PodvmError(last.code, `${what}: ${failures.map(messageOf).join("; then ")}`, { cause: last });
  }

  async close(): Promise<void> {
    await Promise.all(this.clients.map((client) => client.close()));
  }

  private async resolveAt(client: RepositoryClient, signal?: AbortSignal): Promise<ResolvedImage> {
    const { digest: wanted, tag } = this.reference;
    const top = await this.manifest(client, wanted ?? tag ?? "latest", wanted, signal);
    let document = top.document;
    for (let depth = 0; document.kind === "index"; depth++) {
      if (depth === maxIndexes) throw new PodvmError("invalid_argument", `${client.name}: indexes nest too deep`);
      const entry = choosePlatform(document.entries, client.name);
      document = (await this.manifest(client, entry.digest, entry.digest, signal)).document;
    }
    const { config, layers }: Manifest = document.manifest;
    if (config.size > this.limits.maxDocumentBytes) {
      throw new PodvmError(
        "resource_exhausted",
        `${client.name}: image configuration of ${config.size} bytes; at most ${this.limits.maxDocumentBytes}`,
      );
    }
    const { bytes } = await client.document(`blobs/${config.digest}`, "*/*", config.size, signal);
    checkDigest(bytes, config.digest, `${client.name}: image configuration`);
    const parsed = parseImageConfig(bytes, client.name);
    if (parsed.diffIds.length !== layers.length) {
      throw new PodvmError(
        "invalid_argument",
        `${client.name}: ${layers.length} layers, but ${parsed.diffIds.length} diff_ids in the configuration`,
      );
    }
    return { digest: top.digest, config: parsed, configDescriptor: config, layers };
  }

  private async manifest(client: RepositoryClient, name: string, digest: string | undefined, signal?: AbortSignal) {
    const what = `${client.name}/manifests/${name}`;
    const { bytes, mediaType } = await client.document(
      `manifests/${name}`,
      acceptManifests,
      this.limits.maxDocumentBytes,
      signal,
    );
    if (digest !== undefined) checkDigest(bytes, digest, what);
    return {
      digest: digest ?? `sha256:${createHash("sha256").update(bytes).digest("hex")}`,
      document: parseManifest(bytes, mediaType, what),
    };
  }
}

function checkDigest(bytes: Buffer, digest: string, what: string): void {
  const [algorithm = "", wanted] = digest.split(":");
  const found = createHash(algorithm).update(bytes).digest("hex");
  if (found !== wanted)
    throw new PodvmError(
      "invalid_argument",
      `${what}: the registry sent other bytes: ${algorithm}:${found}, wanted ${digest}`,
    );
}
