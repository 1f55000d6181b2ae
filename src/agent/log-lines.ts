/**
 * Container output → lines of the CRI log: `<RFC 3339 with nanoseconds> <stdout|stderr> <P|F> <content>\n`.
 *
 * The same chunks give the same bytes, wherever reading resumes: a line is cut by its content and by the chunks' ends alone, and carries
 * the time of the chunk that completed it. As containerd does: a piece of an overlong line, and what has no line break at
 * the end of the output, has tag P; what a line break ends has tag F; "\r" is content.
 */
import type { OutputChunk } from "../gen/agent/v1/agent.js";
import { Stream } from "../gen/agent/v1/agent.js";
import { PodvmError } from "../host/errors.js";

export type StreamName = "stdout" | "stderr";

/** Longest content of one line of the log. */
export const DEFAULT_MAX_LINE = 16 * 1024;

/**
 * Chunks that one unfinished line may span. The agent's spool counts each chunk with 96 bytes, so a program that writes
 * dots, one at a time, would fill it with a line that never ends, and block for ever; after so many the piece goes out as P.
 */
export const MAX_LINE_CHUNKS = 256;

const NEWLINE = 10;

/** Most containers write little, and a node has hundreds of them. */
const FIRST_BYTES = 8 * 1024;
const KEPT_BYTES = 8 << 20;

/** A growing buffer that is filled with lines, written, and filled again. */
export class LineBuffer {
  #bytes = Buffer.allocUnsafe(FIRST_BYTES);
  length = 0;

  /** What was put in since `clear`. Valid until the next call of any method. */
  get view(): Buffer {
    return this.#bytes.subarray(0, this.length);
  }

  put(prefix: Buffer, head: Buffer, headLength: number, body: Buffer, start: number, end: number): void {
    const need = this.length + prefix.length + headLength + (end - start) + 1;
    if (need > this.#bytes.length) this.#grow(need);
    const bytes = this.#bytes;
    let at = this.length;
    at += prefix.copy(bytes, at);
    if (headLength > 0) at += head.copy(bytes, at, 0, headLength);
    at += body.copy(bytes, at, start, end);
    bytes[at] = NEWLINE;
    this.length = at + 1;
  }

  clear(): void {
    this.length = 0;
    // One burst of empty lines grows the buffer fifty-fold: do not keep that for ever.
    if (this.#bytes.length > KEPT_BYTES) this.#bytes = Buffer.allocUnsafe(FIRST_BYTES);
  }

  #grow(need: number): void {
    const bigger = Buffer.allocUnsafe(Math.max(need, this.#bytes.length * 2));
    this.#bytes.copy(bigger, 0, 0, this.length);
    this.#bytes = bigger;
  }
}

/** One stream of one container. */
export class LineFramer {
  readonly #name: StreamName;
  readonly #maxLine: number;
  readonly #pending: Buffer;
  #pendingLength = 0;
  #pendingChunks = 0;
  #pendingTime = 0n;
  /** Offset of the next byte wanted. */
  #next: number;
  #eof: boolean;

  /** `offset`: bytes of the stream that lines in the log cover already. */
  constructor(name: StreamName, offset: number, eof: boolean, maxLine = DEFAULT_MAX_LINE) {
    this.#name = name;
    this.#maxLine = maxLine;
    this.#pending = Buffer.allocUnsafe(maxLine + 1);
    this.#next = offset;
    this.#eof = eof;
  }

  /** Offset of the first byte that no line covers yet: what may be acknowledged once the lines are written. */
  get covered(): number {
    return this.#next - this.#pendingLength;
  }

  get next(): number {
    return this.#next;
  }

  get eof(): boolean {
    return this.#eof;
  }

  /** Forward, over output that the agent no longer has; what is unfinished goes out as P. */
  skipTo(offset: number, out: LineBuffer): void {
    this.flush(out);
    this.#next = offset;
  }

  /**
   * Puts the lines that `chunk` completes into `out`. What is known of an unfinished line is skipped when it comes again; a chunk that
   * does not continue the stream is rejected.
   */
  push(chunk: OutputChunk, out: LineBuffer): void {
    const offset = Number(chunk.offset);
    if (offset > this.#next || offset < this.covered || (chunk.eof && offset !== this.#next)) {
      throw new PodvmError("internal", `agent: ${this.#name}: wanted offset ${this.#next}, found ${chunk.offset}`);
    }
    if (chunk.eof) {
      this.flush(out); // nothing is there on a repetition
      this.#eof = true;
      return;
    }
    const known = this.#next - offset;
    if (chunk.data.length <= known) return;
    if (this.#eof) throw new PodvmError("internal", `agent: ${this.#name}: output after its end`);
    const data = known > 0 ? chunk.data.subarray(known) : chunk.data;
    this.#pendingTime = chunk.timeNs;
    this.#cut(data, chunk.timeNs, out);
    this.#next += data.length;
    if (this.#pendingLength > 0 && this.#pendingChunks >= MAX_LINE_CHUNKS) this.flush(out);
  }

  /** What has no line break goes out as P: at the end of the output, or because no more can come. */
  flush(out: LineBuffer): void {
    if (this.#pendingLength === 0) return;
    out.put(linePrefix(this.#pendingTime, this.#name, "P"), this.#pending, this.#pendingLength, this.#pending, 0, 0);
    this.#pendingLength = 0;
    this.#pendingChunks = 0;
  }

  #cut(data: Buffer, timeNs: bigint, out: LineBuffer): void {
    const max = this.#maxLine;
    const full = linePrefix(timeNs, this.#name, "F");
    let partial: Buffer | undefined;
    let start = 0;
    while (start < data.length) {
      const newline = data.indexOf(NEWLINE, start);
      const end = newline < 0 ? data.length : newline;
      // Pieces go out only when more than `max` is there: a line of exactly `max` bytes is one F, not P and an empty F.
      while (this.#pendingLength + (end - start) > max) {
        partial ??= linePrefix(timeNs, this.#name, "P");
        const take = max - this.#pendingLength;
        out.put(partial, this.#pending, this.#pendingLength, data, start, start + take);
        start += take;
        this.#pendingLength = 0;
        this.#pendingChunks = 0;
      }
      if (newline < 0) {
        this.#pendingLength += data.copy(this.#pending, this.#pendingLength, start, end);
        this.#pendingChunks += 1;
        return;
      }
      out.put(full, this.#pending, this.#pendingLength, data, start, end);
      this.#pendingLength = 0;
      this.#pendingChunks = 0;
      start = newline + 1;
    }
  }
}

export function streamName(stream: Stream): StreamName {
  return stream === Stream.STREAM_STDERR ? "stderr" : "stdout";
}

let lastSecond = -1n;
let lastSecondText = "";

/** "2026-01-02T03:04:05.678901234Z stdout F ". UTC: the log's bytes do not depend on the server's time zone. */
export function linePrefix(timeNs: bigint, name: StreamName, tag: "P" | "F"): Buffer {
  const second = timeNs / 1_000_000_000n;
  if (second !== lastSecond) {
    lastSecondText = new Date(Number(second) * 1000).toISOString().slice(0, 19);
    lastSecond = second;
  }
  const fraction = String(timeNs % 1_000_000_000n).padStart(9, "0");
  return Buffer.from(`${lastSecondText}.${fraction}Z ${name} ${tag} `, "latin1");
}
