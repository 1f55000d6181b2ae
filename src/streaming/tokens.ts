import { createHash, randomBytes } from "node:crypto";
import { PodvmError } from "../host/errors.js";
import type { StreamRequest } from "./session.js";

/** 192 bits, in URL-safe base 64. */
const TOKEN_BYTES = 24;
const TOKEN = /^[A-Za-z0-9_-]{32}$/;
/** Commands of all requests that wait for their client, together. */
const MAX_BYTES = 64 << 20;

interface Waiting {
  request: StreamRequest;
  size: number;
  timer: NodeJS.Timeout;
}

/**
 * Requests between the CRI call that allows them and the client that comes for them. A token is good for one use, within its time.
 * The table is keyed by digests, so how long a wrong token takes to be refused tells nothing about the right ones.
 */
export class Tokens {
  readonly #waiting = new Map<string, Waiting>();
  readonly #ttlMs: number;
  readonly #max: number;
  #bytes = 0;

  constructor(ttlMs: number, max: number) {
    this.#ttlMs = ttlMs;
    this.#max = max;
  }

  get size(): number {
    return this.#waiting.size;
  }

  /** Rejects by resource_exhausted when too many requests wait for their clients. */
  issue(request: StreamRequest): string {
    const size = sizeOf(request);
    if (this.#waiting.size >= this.#max || this.#bytes + size > MAX_BYTES) {
      throw new PodvmError(
        "resource_exhausted",
        `streaming: ${this.#waiting.size} requests wait for their clients already, at most ${this.#max} of together ${MAX_BYTES >> 20} MiB may: try again within ${Math.ceil(this.#ttlMs / 1000)} s`,
      );
    }
    const token = randomBytes(TOKEN_BYTES).toString("base64url");
    const key = digest(token);
    const timer = setTimeout(() => this.#remove(key), this.#ttlMs);
    timer.unref();
    this.#waiting.set(key, { request, size, timer });
    this.#bytes += size;
    return token;
  }

  /** The request, once; undefined for a token that is unknown, used, expired, or of another kind (which uses it up). */
  take(kind: string, token: string): StreamRequest | undefined {
    if (!TOKEN.test(token)) return undefined;
    const request = this.#remove(digest(token));
    return request?.kind === kind ? request : undefined;
  }

  clear(): void {
    for (const key of [...this.#waiting.keys()]) this.#remove(key);
  }

  #remove(key: string): StreamRequest | undefined {
    const waiting = this.#waiting.get(key);
    if (!waiting) return undefined;
    clearTimeout(waiting.timer);
    this.#waiting.delete(key);
    this.#bytes -= waiting.size;
    return waiting.request;
  }
}

function digest(token: string): string {
  return createHash("sha256").update(token).digest("base64");
}

function sizeOf(request: StreamRequest): number {
  if (request.kind !== "exec") return 1024;
  return request.command.reduce((sum, word) => sum + word.length + 64, 1024);
}
