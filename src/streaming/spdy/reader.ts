import type { Readable } from "node:stream";

/** Pulls exact numbers of bytes from a stream, buffering no more than one of its pieces. */
export class ByteReader {
  readonly #stream: Readable;
  #piece: Buffer = Buffer.alloc(0);
  #over = false;
  #wake: (() => void) | undefined;

  constructor(stream: Readable) {
    this.#stream = stream;
    const wake = () => this.#wake?.();
    const over = () => {
      this.#over = true;
      wake();
    };
    stream.on("readable", wake);
    stream.on("end", over);
    stream.on("close", over);
    stream.on("error", over);
  }

  /** At least one byte, at most `max`; undefined at the end. */
  async some(max: number): Promise<Buffer | undefined> {
    while (this.#piece.length === 0) {
      const piece = this.#stream.read() as Buffer | null;
      if (piece !== null) this.#piece = piece;
      else if (this.#over) return undefined;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = undefined;
      }
    }
    const part = this.#piece.subarray(0, max);
    this.#piece = this.#piece.subarray(part.length);
    return part;
  }

  /** Exactly `count` bytes; undefined when the stream ends before. */
  async exactly(count: number): Promise<Buffer | undefined> {
    if (this.#piece.length >= count) {
      const whole = this.#piece.subarray(0, count);
      this.#piece = this.#piece.subarray(count);
      return whole;
    }
    const whole = Buffer.allocUnsafe(count);
    let have = 0;
    while (have < count) {
      const part = await this.some(count - have);
      if (!part) return undefined;
      part.copy(whole, have);
      have += part.length;
    }
    return whole;
  }
}
