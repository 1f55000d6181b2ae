import { sleep } from "../host/deadline.js";
import type { PullProgress } from "../image/image.js";

/** Between two reports of an unchanged state. */
const periodMs = 100;

/**
 * Progress reports on their way to a client: only the latest of each item is kept, so a slow client costs one report per layer, and an
 * item whose state did not change is reported at most every 100 ms.
 */
export class ProgressQueue implements AsyncIterable<PullProgress> {
  private readonly latest = new Map<string, PullProgress>();
  private readonly sentState = new Map<string, string>();
  private urgent = false;
  private ended = false;
  private wake: () => void = () => {};

  put(progress: PullProgress): void {
    this.latest.set(progress.item, progress);
    if (this.sentState.get(progress.item) !== progress.state) this.urgent = true;
    this.wake();
  }

  /** No report follows; what is queued is still given. */
  end(): void {
    this.ended = true;
    this.wake();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<PullProgress> {
    for (;;) {
      if (this.latest.size === 0 && !this.ended) await new Promise<void>((resolve) => (this.wake = resolve));
      if (!this.urgent && !this.ended) await this.pause();
      this.urgent = false;
      const reports = [...this.latest.values()];
      this.latest.clear();
      for (const report of reports) {
        this.sentState.set(report.item, report.state);
        yield report;
      }
      if (this.ended && this.latest.size === 0) return;
    }
  }

  private async pause(): Promise<void> {
    const woken = new Promise<void>((resolve) => {
      this.wake = () => {
        if (this.urgent || this.ended) resolve();
      };
      this.wake();
    });
    await Promise.race([sleep(periodMs), woken]);
  }
}
