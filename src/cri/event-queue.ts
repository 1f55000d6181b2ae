import { PodvmError } from "../host/errors.js";

/**
 * What one subscriber has not read yet, in order. A reader that falls behind by more than `limit` is cut off: what it missed it can only learn by
 * listing again, and it must be told so rather than be given a stream with a hole.
 */
export class EventQueue<T> implements AsyncIterable<T> {
  private readonly waiting: T[] = [];
  private end: { err?: unknown } | undefined;
  private wake: (() => void) | undefined;

  constructor(private readonly limit: number) {}

  push(item: T): void {
    if (this.end) return;
    if (this.waiting.length >= this.limit) {
      this.waiting.length = 0;
      this.close(
        new PodvmError(
          "resource_exhausted",
          `the reader fell behind by ${this.limit} events and was cut off: list pods and containers, then subscribe again`,
        ),
      );
      return;
    }
    this.waiting.push(item);
    this.wake?.();
  }

  /** Nothing comes after what is waiting; with an error the iteration ends in it. Idempotent. */
  close(err?: unknown): void {
    this.end ??= err === undefined ? {} : { err };
    this.wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T> {
    for (;;) {
      const item = this.waiting.shift();
      if (item !== undefined) {
        yield item;
      } else if (this.end) {
        if (this.end.err !== undefined) throw this.end.err;
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
        this.wake = undefined;
      }
    }
  }
}
