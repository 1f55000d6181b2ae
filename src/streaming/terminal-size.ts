import type { TerminalSize } from "./session.js";

/** A client's message is about 30 bytes. */
const MAX_MESSAGE = 1024;

/**
 * Decodes what clients send on the resize stream: JSON objects `{"Width":80,"Height":24}` one after another, cut anywhere. What is no
 * such object is skipped.
 */
export class SizeDecoder {
  #rest = "";

  push(data: Buffer): TerminalSize[] {
    const sizes: TerminalSize[] = [];
    // latin1: each byte is one character, so a cut within a UTF-8 sequence does no harm.
    let text = this.#rest + data.toString("latin1");
    for (let end = text.indexOf("}"); end >= 0; end = text.indexOf("}")) {
      const size = parse(text.slice(Math.max(0, end - MAX_MESSAGE), end + 1));
      if (size) sizes.push(size);
      text = text.slice(end + 1);
    }
    this.#rest = text.length > MAX_MESSAGE ? "" : text;
    return sizes;
  }
}

function parse(text: string): TerminalSize | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { Width: width, Height: height } = (value ?? {}) as { Width?: unknown; Height?: unknown };
  return isCount(width) && isCount(height) ? { width, height } : undefined;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value > 0 && value <= 65535;
}

/** Holds the latest size until it is asked for: only that one matters to a terminal. */
export class LatestSize implements AsyncIterable<TerminalSize> {
  #size: TerminalSize | undefined;
  #ended = false;
  #wake: (() => void) | undefined;

  set(size: TerminalSize): void {
    this.#size = size;
    this.#wake?.();
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<TerminalSize> {
    for (;;) {
      const size = this.#size;
      this.#size = undefined;
      if (this.#ended) return;
      if (size) yield size;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = undefined;
      }
    }
  }
}
