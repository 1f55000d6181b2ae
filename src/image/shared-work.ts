import { PodvmError } from "../host/errors.js";

interface Running<T, P> {
  result: Promise<T>;
  abort: AbortController;
  waiters: Set<(progress: P) => void>;
}

/**
 * Work that several callers may want at once is done once per key. A caller that aborts leaves alone; the work itself is aborted
 * when the last has left.
 */
export class SharedWork<T, P> {
  private readonly running = new Map<string, Running<T, P>>();

  /** @param start makes the work, if none is under way. It must settle soon after its signal aborts. */
  async join(
    key: string,
    start: (report: (progress: P) => void, signal: AbortSignal) => Promise<T>,
    onProgress: (progress: P) => void,
    signal?: AbortSignal,
  ): Promise<T> {
    if (signal?.aborted) throw cancelled(signal);
    const work = this.running.get(key) ?? this.begin(key, start);
    const waiter = (progress: P) => onProgress(progress);
    work.waiters.add(waiter);
    let leave = () => {};
    const left = new Promise<never>((_, reject) => {
      leave = () => reject(cancelled(signal));
    });
    signal?.addEventListener("abort", leave, { once: true });
    try {
      return await Promise.race([work.result, left]);
    } finally {
      signal?.removeEventListener("abort", leave);
      work.waiters.delete(waiter);
      if (work.waiters.size === 0) {
        if (this.running.get(key) === work) this.running.delete(key); // a newcomer must not join what is being aborted
        work.abort.abort(new PodvmError("cancelled", "nobody waits for it any more"));
        if (signal?.aborted) await work.result.catch(() => {}); // the last to leave sees that nothing is left behind
      }
    }
  }

  private begin(key: string, start: (report: (progress: P) => void, signal: AbortSignal) => Promise<T>): Running<T, P> {
    const abort = new AbortController();
    const waiters = new Set<(progress: P) => void>();
    const result = start((progress) => {
      for (const waiter of waiters) waiter(progress);
    }, abort.signal);
    const work: Running<T, P> = { result, abort, waiters };
    this.running.set(key, work);
    const forget = () => {
      if (this.running.get(key) === work) this.running.delete(key);
    };
    result.then(forget, forget);
    return work;
  }
}

function cancelled(signal?: AbortSignal): PodvmError {
  const reason: unknown = signal?.reason;
  return reason instanceof PodvmError ? reason : new PodvmError("cancelled", "pull cancelled", { cause: reason });
}
