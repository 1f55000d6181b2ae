/** What the other rooms see of images. */
import type { ImageReference } from "./reference.js";

/** The parts of an OCI image configuration that running needs. Untrusted text, bounded in size when it was parsed. */
export interface ImageRunConfig {
  user: string;
  env: string[];
  entrypoint: string[];
  cmd: string[];
  workingDir: string;
  /** "" or "SIGTERM", "15". */
  stopSignal: string;
  labels: Record<string, string>;
  volumes: string[];
  exposedPorts: string[];
}

export interface Image {
  /** Digest of the image configuration: sha256:<64 hex>. The image's id in every API. */
  id: string;
  /** docker.io/library/busybox:1.36 … normalised, sorted. */
  repoTags: string[];
  /** docker.io/library/busybox@sha256:… digest of the manifest (or index) as pulled. */
  repoDigests: string[];
  /** Bytes on disk of what this image alone would need. */
  size: number;
  pinned: boolean;
  config: ImageRunConfig;
  /** os/architecture of the manifest chosen. */
  platform: string;
}

/**
 * The bytes of an image as one read-only block device: extents one after another. `path` files are 0444, owned by the store, and may be
 * hard-linked; `bytes` is what to take of each (a multiple of 512), a file shorter than that is an error.
 */
export interface ImageDevice {
  imageId: string;
  extents: { path: string; bytes: number }[];
  /** Where who needs all of it as one file may put that, by rename and for others to find; it counts to the image and goes with it. */
  wholePath?: string;
}

/** CRI AuthConfig, already parsed. */
export interface RegistryCredentials {
  username?: string;
  password?: string;
  identityToken?: string;
  registryToken?: string;
}

export interface PullProgress {
  /** Digest of a layer, or "manifest", "index". */
  item: string;
  state: "waiting" | "downloading" | "unpacking" | "done" | "exists";
  doneBytes: number;
  totalBytes: number;
}

export interface PullOptions {
  credentials?: RegistryCredentials;
  onProgress?: (progress: PullProgress) => void;
  signal?: AbortSignal;
}

export interface ImageFsUsage {
  mountpoint: string;
  usedBytes: number;
  inodesUsed: number;
}

export interface ImageStore {
  /** Removes what an interrupted pull left and loads the documents. Called once, before anything else. */
  open(): Promise<void>;
  /** Two pulls of the same image at once share the work. After a failure or abort nothing half-made is visible. */
  pull(reference: ImageReference, options?: PullOptions): Promise<Image>;
  /** By id (with or without "sha256:"), tag or digest reference; undefined where there is none. */
  find(name: string): Image | undefined;
  list(): Image[];
  /** By tag or digest: that name goes; by id, or with its last name: the image goes too, with all that no other image needs. OK when there is none. */
  remove(name: string): Promise<void>;
  /** The block device of an image that is here; made at pull time, so this is quick. */
  device(imageId: string): Promise<ImageDevice>;
  usage(): Promise<ImageFsUsage>;
}
