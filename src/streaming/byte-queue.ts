import type { ByteSource } from "./session.js";

/** Shorter pieces are copied: a slice keeps all of the buffer that it was cut from in memory. */
const COPY_BELOW = 16 * 1024;
/** What one piece costs beside its bytes. */
const PIECE_COST = 256;

/**
 * Bytes between a connection that pushes and one reader that pulls. It does not bound itself: whoever pushes looks at `cost` and stops
 * reading its connection until `onTaken` says that there is room again.
 */
export class ByteQueue implements ByteSource {
  readonly #onTaken: (bytes: number) => void;
  #pieces: Buffer[] = [];
  #bytes = 0;
  #ended = false;
  #discards = false;
  #failure: Error | undefined;
  #wake: (() => void) | undefined;

  /** `onTaken` is told of bytes that have left the queue. */
  constructor(onTaken: (bytes: number) => void) {
    this.#onTaken = onTaken;
  }

  /** Memory that is held, in bytes, within a small factor also for many tiny pieces. */
  get cost(): number {
    return this.#bytes + this.#pieces.length * PIECE_COST;
  }

  get ended(): boolean {
    return this.#ended;
  }

  push(data: Buffer): void {
    if (data.length === 0) return;
    if (this.#discards || this.#ended || this.#failure) {
      this.#onTaken(data.length);
      return;
    }
    this.#pieces.push(data.length < COPY_BELOW ? exactCopy(data) : data);
    this.#bytes += data.length;
    this.#wake?.();
  }

  /** The reader ends after what is queued. */
  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** The reader throws `err`, at once. Without effect after a regular end has been read. */
  fail(err: Error): void {
    this.#failure ??= err;
    this.#drop();
    this.#wake?.();
  }

  /** Nobody reads any more: what is queued and what comes is dropped, so that the sender does not block. */
  discard(): void {
    this.#discards = true;
    this.#drop();
  }

  /** Next piece; undefined at the end. */
  async next(): Promise<Buffer | undefined> {
    for (;;) {
      if (this.#failure) throw this.#failure;
      const piece = this.#pieces.shift();
      if (piece) {
        this.#bytes -= piece.length;
        this.#onTaken(piece.length);
        return piece;
      }
      if (this.#ended || this.#discards) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer> {
    for (;;) {
      const piece = await this.next();
      if (!piece) return;
      yield piece;
    }
  }

  #drop(): void {
    const bytes = this.#bytes;
    this.#pieces = [];
    this.#bytes = 0;
    if (bytes > 0) this.#onTaken(bytes);
    this.#wake?.();
  }
}

function exactCopy(data: Buffer): Buffer {
  const copy = Buffer.allocUnsafeSlow(data.length);
  data.copy(copy);
  return copy;
}
