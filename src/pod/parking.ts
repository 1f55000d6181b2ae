import { PodvmError } from "../host/errors.js";

interface Parked<T> {
  work: Promise<T>;
  /** Callers that still wait; 0 when every client gave up. */
  waiting: number;
  claimed: boolean;
  /** Once it is there. */
  result?: T;
}

/**
 * Creations that outlive their client. kubelet gives a request up after its time-out and asks again with the same name: the second
 * request must find the work of the first, not start it anew and not fail because the name is taken (as CRI-O's resource store does).
 */
export class Parking<T> {
  private readonly parked = new Map<string, Parked<T>>();

  /** `exists` says whether a finished result is still there: one that was removed meanwhile must not be handed out. */
  constructor(
    private readonly exists: (result: T) => boolean,
    private readonly keepMs = 300_000,
  ) {}

  /**
   * Runs `work` under `name`, or joins the one under way, or answers with a finished one whose client had gone. `signal` says that
   * this client went away: its call rejects with cancelled, the work goes on.
   */
  async run(name: string, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    let entry = this.parked.get(name);
    if (entry?.result !== undefined && !this.exists(entry.result)) entry = undefined;
    if (!entry) {
      entry = { work: work(), waiting: 0, claimed: false };
      this.parked.set(name, entry);
      this.expire(name, entry);
    }
    return this.wait(name, entry, signal);
  }

  private async wait(name: string, entry: Parked<T>, signal: AbortSignal | undefined): Promise<T> {
    entry.waiting++;
    let onAbort: (() => void) | undefined;
    const aborted = new Promise<never>((_, reject) => {
      onAbort = () =>
        reject(new PodvmError("cancelled", `${name}: the client went away; the work goes on and a retry finds it`));
      if (signal?.aborted) onAbort();
      else signal?.addEventListener("abort", onAbort, { once: true });
    });
    try {
      const result = await Promise.race([entry.work, aborted]);
      entry.claimed = true;
      if (this.parked.get(name) === entry) this.parked.delete(name);
      return result;
    } finally {
      entry.waiting--;
      if (onAbort) signal?.removeEventListener("abort", onAbort);
      aborted.catch(() => {});
    }
  }

  private expire(name: string, entry: Parked<T>): void {
    const forget = () => {
      if (this.parked.get(name) === entry) this.parked.delete(name);
    };
    entry.work.then(
      (result) => {
        entry.result = result;
        if (!entry.claimed) setTimeout(forget, this.keepMs).unref();
      },
      forget, // a failure is not parked: the retry tries again
    );
  }
}
