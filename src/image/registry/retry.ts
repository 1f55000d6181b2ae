import { setTimeout as wait } from "node:timers/promises";
import { hasCode, PodvmError } from "../../host/errors.js";

const firstMs = 200;
const maxMs = 5_000;
const maxRetryAfterMs = 30_000;

/** Retry-After in milliseconds (seconds or a date), at most 30 s; undefined where there is none. */
export function retryAfter(header: string | string[] | undefined): number | undefined {
  if (typeof header !== "string") return undefined;
  const ms = /^[0-9]{1,9}$/.test(header) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.min(Math.max(ms, 0), maxRetryAfterMs);
}

/**
 * After a failed try: waits until the next is due, or throws the failure where it is none that passes (only `unavailable` does)
 * or where it was the last of `attempts`. Waits double from 200 ms to 5 s with jitter, or as Retry-After said.
 */
export async function backOff(err: unknown, attempt: number, attempts: number, signal?: AbortSignal): Promise<void> {
  if (!hasCode(err, "unavailable") || attempt >= attempts || signal?.aborted) throw err;
  const asked = (err as { retryAfterMs?: number }).retryAfterMs;
  const ms = asked ?? Math.min(firstMs * 2 ** (attempt - 1), maxMs) * (0.5 + Math.random() / 2);
  try {
    await wait(ms, undefined, signal === undefined ? {} : { signal });
  } catch (cause) {
    if (signal?.reason instanceof PodvmError) throw signal.reason;
    throw new PodvmError("cancelled", "pull cancelled", { cause });
  }
}
