/** Volumes of a pod as its document holds them. */
import type { ShareEntry } from "./share.js";

export type VolumeSpec =
  /** A copy of a folder or file that is pushed into the guest, again whenever the source changes where `follow` says so. */
  | { kind: "synced"; source: string; singleFile: boolean; follow: boolean }
  /** A termination log: a synced file that is pulled into the source when its container has exited. */
  | { kind: "log"; source: string }
  /** A folder that only this pod has: a tmpfs of `size` bytes, or a folder on the scratch disk. */
  | { kind: "local"; memory: boolean; size: number; mode: number; uid: number; gid: number }
  | { kind: "image"; imageId: string; serial: string }
  | { kind: "share"; entry: ShareEntry }
  /** A unix socket of the host, forwarded. */
  | { kind: "socket"; source: string; mode: number; uid: number; gid: number }
  /** A block device of the host as a disk of the VM. */
  | { kind: "block"; major: number; minor: number; readOnly: boolean; serial: string };

export interface VolumeDocument {
  /** Chosen by the server: of [a-z0-9-], at most 64 characters. */
  id: string;
  /** Two mounts with the same key are the same volume of the pod. */
  key: string;
  spec: VolumeSpec;
  /** The container that it is for alone; it goes with it. All others go with the pod. */
  container?: string;
  /** Digest of the generation that the guest has. */
  generation?: string;
}

/** A mount of a container: which volume, what of it. */
export interface VolumeChoice {
  key: string;
  spec: VolumeSpec;
  /** Path inside the volume, "" for the whole. */
  subPath: string;
}
