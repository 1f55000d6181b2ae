/** Header blocks: one zlib stream per direction for the whole connection, flushed after each block. */
import { constants, createDeflate, createInflate, type Deflate, type Inflate } from "node:zlib";
import { PodvmError } from "../../host/errors.js";
import { DICTIONARY } from "./dictionary.js";

/** Bytes of one block after decompression. Kubernetes' clients send about 100. */
export const MAX_BLOCK = 32 * 1024;
const MAX_HEADERS = 64;

function wrong(what: string): PodvmError {
  return new PodvmError("invalid_argument", `SPDY: header block: ${what}`);
}

/** Decompresses blocks in the order in which they came; one call at a time. */
export class HeaderReader {
  readonly #inflate: Inflate = createInflate({ dictionary: DICTIONARY, chunkSize: 4096 });
  #pieces: Buffer[] = [];
  #bytes = 0;
  #fail: ((err: Error) => void) | undefined;
  #failure: Error | undefined;

  constructor() {
    this.#inflate.on("data", (piece: Buffer) => {
      this.#pieces.push(piece);
      this.#bytes += piece.length;
      if (this.#bytes > MAX_BLOCK) this.#broken(wrong(`more than ${MAX_BLOCK} bytes after decompression`));
    });
    this.#inflate.on("error", (err) => this.#broken(wrong(err.message)));
    this.#inflate.on("end", () => this.#broken(wrong("the compressed stream has ended")));
  }

  /** Headers by lower-case name. Rejects with invalid_argument, after which the reader is of no more use. */
  async read(block: Buffer): Promise<Map<string, string>> {
    return parseBlock(await this.#decompress(block));
  }

  close(): void {
    this.#broken(new PodvmError("cancelled", "SPDY: the connection was closed"));
  }

  #broken(err: Error): void {
    this.#failure ??= err;
    this.#inflate.destroy();
    this.#fail?.(this.#failure);
  }

  #decompress(block: Buffer): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      if (this.#failure) return reject(this.#failure);
      this.#fail = reject;
      // A copy: zlib works on it in another thread.
      this.#inflate.write(Buffer.from(block), () => {
        while (this.#inflate.read() !== null); // what is still queued goes through "data"
        this.#fail = undefined;
        const whole = Buffer.concat(this.#pieces);
        this.#pieces = [];
        this.#bytes = 0;
        if (this.#failure) reject(this.#failure);
        else resolve(whole);
      });
    });
  }
}

function parseBlock(block: Buffer): Map<string, string> {
  let at = 0;
  const number = () => {
    if (at + 4 > block.length) throw wrong("cut short");
    at += 4;
    return block.readUInt32BE(at - 4);
  };
  const text = () => {
    const length = number();
    if (at + length > block.length) throw wrong("a length beyond its end");
    at += length;
    return block.toString("latin1", at - length, at);
  };
  const count = number();
  if (count > MAX_HEADERS) throw wrong(`${count} headers, at most ${MAX_HEADERS} are taken`);
  const headers = new Map<string, string>();
  for (let i = 0; i < count; i++) {
    const name = text().toLowerCase();
    // Several values of one name are separated by NUL; nobody here wants more than the first.
    headers.set(name, text().split("\0", 1)[0] ?? "");
  }
  if (at !== block.length) throw wrong("more bytes than headers");
  return headers;
}

/** Compresses blocks; one call at a time. */
export class HeaderWriter {
  readonly #deflate: Deflate = createDeflate({ dictionary: DICTIONARY, chunkSize: 4096 });
  #closed = false;

  constructor() {
    this.#deflate.on("error", () => {}); // of a write after close
  }

  /** A block without any header, which is all that a server here has to say. Never settles after `close`. */
  empty(): Promise<Buffer> {
    return new Promise((resolve) => {
      if (this.#closed) return;
      this.#deflate.write(Buffer.alloc(4));
      this.#deflate.flush(constants.Z_SYNC_FLUSH, () => {
        const pieces: Buffer[] = [];
        for (let piece = this.#deflate.read(); piece !== null; piece = this.#deflate.read()) pieces.push(piece);
        resolve(Buffer.concat(pieces));
      });
    });
  }

  close(): void {
    this.#closed = true;
    this.#deflate.destroy();
  }
}
