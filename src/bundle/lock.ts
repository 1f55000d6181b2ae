import { whileLocked } from "../host/file-lock.js";

/**
 * Runs `work` while no asset folder of that kind is being built: under the builders' lock (bundle/lib.sh). Rejects with unavailable when a build holds
 * it for longer than `deadlineMs`. The lock goes when `work` ends, or with this process.
 */
export function whileNobodyBuilds<T>(kindFolder: string, deadlineMs: number, work: () => Promise<T>): Promise<T> {
  return whileLocked(`${kindFolder}/.lock`, deadlineMs, "try again when no build runs", work);
}
