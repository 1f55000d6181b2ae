/**
 * The termination log (terminationMessagePath): kubelet makes an empty file …/pods/UID/containers/NAME/HASH, and reads the end of it when the container
 * has exited. The guest writes into a copy, which is pulled before the exit is reported.
 */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { errno } from "../host/errors.js";
import type { MountConfig } from "../pod/types.js";
import type { HostSource } from "./source.js";
import type { VolumeChoice } from "./types.js";

/** kubelet takes the last 4 KiB (MaxContainerTerminationMessageLength). */
export const MAX_LOG_BYTES = 64 * 1024;

export function terminationLog(mount: MountConfig, source: HostSource, podUid: string): VolumeChoice | undefined {
  const ours = podUid !== "" && source.path.includes(`/pods/${podUid}/containers/`);
  if (!ours || mount.readonly || !/\/containers\/[^/]+\/[^/]+$/.test(source.path)) return undefined;
  return { key: `log:${source.path}`, spec: { kind: "log", source: source.path }, subPath: "" };
}

/** Replaces the file's content; OK where the file is gone. */
export async function writeTerminationLog(path: string, data: Uint8Array): Promise<void> {
  try {
    const file = await open(path, constants.O_WRONLY | constants.O_TRUNC | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      if ((await file.stat()).isFile()) await file.writeFile(data);
    } finally {
      await file.close();
    }
  } catch (err) {
    if (errno(err) !== "ENOENT") throw err;
  }
}
