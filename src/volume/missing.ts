/** Host paths that are not there. */
import { mkdir, realpath } from "node:fs/promises";
import { errno } from "../host/errors.js";

/**
 * The path with its links followed. Where nothing is there a folder is made (0755, root), as containerd and CRI-O do it: manifests rely on it,
 * since Kubernetes' hostPath without a type promises no check. A link that leads nowhere is ENOENT's error still.
 */
export async function resolveOrMake(hostPath: string): Promise<string> {
  try {
    return await realpath(hostPath);
  } catch (err) {
    if (errno(err) !== "ENOENT") throw err;
    await mkdir(hostPath, { recursive: true, mode: 0o755 });
    return await realpath(hostPath);
  }
}
