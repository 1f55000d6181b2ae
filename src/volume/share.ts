/**
 * The FUSE relay of a pod, as the rest of the server sees it: one podvm-share process per pod that needs it, which shows each added
 * folder or file of the host as one entry at the top of the file system that the agent mounts (docs/volumes.md).
 */
import type { Propagation } from "../pod/types.js";
import type { VmSpec } from "../vmm/vmm.js";

export interface ShareEntry {
  /** Of [a-z0-9-], at most 64 characters: the entry's name at the top of the share. */
  name: string;
  /** Absolute path on the host, links already followed; a folder or any file but a socket or device. */
  hostPath: string;
  /** Enforced on the host's side. */
  readonly: boolean;
  /** Also what is mounted below it. */
  recursiveReadonly: boolean;
  /** hostToContainer: what the host mounts below it later is seen. */
  propagation: Exclude<Propagation, "bidirectional">;
}

export interface Shares {
  /**
   * Shows the entry; starts the pod's share before its first one. Idempotent by name; the document that names the entry is written
   * by the caller before. Rejects with not_found where the path is not there.
   */
  add(spec: VmSpec, entry: ShareEntry, deadlineMs: number): Promise<void>;
  /** Takes the entry away again. OK where there is none. */
  remove(spec: VmSpec, name: string, deadlineMs: number): Promise<void>;
  /** After a restart of the server, or when the share died: all is as it was with these entries. */
  restore(spec: VmSpec, entries: readonly ShareEntry[], deadlineMs: number): Promise<void>;
  /** Ends the pod's share, and removes all that is its own. Idempotent; OK where there never was one. */
  stop(spec: VmSpec, deadlineMs: number): Promise<void>;
}
