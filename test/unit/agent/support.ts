/** A spool that behaves as the agent's does, a file system that can be killed, and a slow but obvious line cutter to compare with. */

import type { FileHandle } from "node:fs/promises";
import * as realFs from "node:fs/promises";
import type { LogFs } from "../../../src/agent/log-writer.js";
import type { OutputSource } from "../../../src/agent/output-pump.js";
import type { OutputStream } from "../../../src/agent/streams.js";
import { type OutputChunk, Stream } from "../../../src/gen/agent/v1/agent.js";
import { PodvmError } from "../../../src/host/errors.js";
import type { Logger } from "../../../src/host/log.js";

/** Small seeded generator: a failing round can be repeated. */
export function random(seed: number): (below: number) => number {
  let state = (seed * 2654435761) >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % below;
  };
}

export interface Line {
  level: string;
  message: string;
  fields: Record<string, unknown>;
}

export function recorder(lines: Line[]): Logger {
  const put =
    (level: string) =>
    (message: string, fields: Record<string, unknown> = {}) => {
      lines.push({ level, message, fields });
    };
  return {
    error: put("error"),
    warn: put("warn"),
    info: put("info"),
    debug: put("debug"),
    child: () => recorder(lines),
  };
}

export const START_NS = 1_767_225_600_000_000_000n; // 2026-01-01T00:00:00Z

/** Cuts data into chunks with rising times. */
export function chunksOf(data: Buffer, stream: Stream, sizes: () => number): OutputChunk[] {
  const chunks: OutputChunk[] = [];
  for (let at = 0; at < data.length; ) {
    const size = Math.min(sizes(), data.length - at);
    chunks.push({
      stream,
      offset: BigInt(at),
      timeNs: START_NS + BigInt(at) * 1_000_003n,
      data: data.subarray(at, at + size),
      eof: false,
    });
    at += size;
  }
  chunks.push({ stream, offset: BigInt(data.length), timeNs: START_NS, data: Buffer.alloc(0), eof: true });
  return chunks;
}

/** What the log must hold of one stream: byte by byte, without any of the cleverness that is tested. */
export function expectedLog(chunks: OutputChunk[], maxLine: number, maxChunks: number): string {
  const lines: string[] = [];
  let piece: number[] = [];
  let spans = 0;
  let time = 0n;
  const name = chunks[0]?.stream === Stream.STREAM_STDERR ? "stderr" : "stdout";
  const emit = (tag: string, at: bigint) => {
    const ms = Number(at / 1_000_000n);
    const stamp = `${new Date(ms).toISOString().slice(0, 20)}${String(at % 1_000_000_000n).padStart(9, "0")}Z`;
    lines.push(`${stamp} ${name} ${tag} ${Buffer.from(piece).toString("latin1")}\n`);
    piece = [];
    spans = 0;
  };
  for (const chunk of chunks) {
    if (chunk.eof) break;
    time = chunk.timeNs;
    let counted = false;
    for (const byte of chunk.data) {
      if (byte === 10) {
        emit("F", time);
        counted = false;
        continue;
      }
      if (piece.length === maxLine) {
        emit("P", time);
        counted = false;
      }
      piece.push(byte);
      if (!counted) spans += 1;
      counted = true;
    }
    if (piece.length > 0 && spans >= maxChunks) emit("P", time);
  }
  if (piece.length > 0) emit("P", time);
  return lines.join("");
}

/** Output of one container, kept until it is acknowledged. `arrived` limits what has been produced so far. */
export class FakeSpool implements OutputSource {
  acked: Record<Stream, number> = { [Stream.STREAM_STDOUT]: 0, [Stream.STREAM_STDERR]: 0 } as Record<Stream, number>;
  eofAcked = new Set<Stream>();
  /** What is wrong about how the pump reads; a test looks at it in the end. */
  complaints: string[] = [];
  connections = 0;
  closed = false;
  /** Called for each batch: throw to break the stream, answer how many chunks to give. */
  batch: () => number = () => 4;
  #chunks: OutputChunk[];
  #current = 0;

  constructor(chunks: OutputChunk[]) {
    this.#chunks = chunks;
  }

  async agent(): Promise<{ output: FakeSpool["output"] }> {
    if (this.closed) throw new PodvmError("cancelled", "closed");
    return { output: this.output.bind(this) };
  }

  output(_: string, stdoutOffset: bigint, stderrOffset: bigint): OutputStream {
    this.connections += 1;
    this.#current += 1;
    const mine = this.#current;
    const from: Record<number, number> = {
      [Stream.STREAM_STDOUT]: Number(stdoutOffset),
      [Stream.STREAM_STDERR]: Number(stderrOffset),
    };
    for (const stream of [Stream.STREAM_STDOUT, Stream.STREAM_STDERR]) {
      if ((from[stream] ?? 0) < this.acked[stream])
        this.complaints.push(`asked for ${from[stream]}, which is acknowledged`);
      this.acked[stream] = Math.max(this.acked[stream], from[stream] ?? 0);
    }
    const queue = this.#chunks
      .filter((chunk) => chunk.eof || Number(chunk.offset) + chunk.data.length > (from[chunk.stream] ?? 0))
      .map((chunk) => {
        const skip = Math.max(0, (from[chunk.stream] ?? 0) - Number(chunk.offset));
        return { ...chunk, offset: chunk.offset + BigInt(skip), data: Buffer.from(chunk.data.subarray(skip)) };
      });
    const sentEof = new Set<Stream>();
    let cancelled = false;
    return {
      next: async () => {
        await new Promise((resolve) => setImmediate(resolve));
        if (cancelled || mine !== this.#current) throw new PodvmError("cancelled", "cancelled");
        const count = this.batch();
        const batch = queue.splice(0, count);
        for (const chunk of batch) if (chunk.eof) sentEof.add(chunk.stream);
        if (batch.length > 0) return batch;
        if (this.eofAcked.size === 2) return undefined;
        throw new PodvmError("unavailable", "nothing more on this stream");
      },
      acknowledge: (stdout, stderr) => {
        const acks: [Stream, number][] = [
          [Stream.STREAM_STDOUT, Number(stdout)],
          [Stream.STREAM_STDERR, Number(stderr)],
        ];
        for (const [stream, offset] of acks) {
          if (offset < this.acked[stream]) this.complaints.push(`acknowledged ${offset} after ${this.acked[stream]}`);
          this.acked[stream] = offset;
          const end = this.#chunks.find((chunk) => chunk.eof && chunk.stream === stream);
          if (sentEof.has(stream) && end && Number(end.offset) === offset) this.eofAcked.add(stream);
        }
      },
      cancel: () => {
        cancelled = true;
      },
    };
  }
}

/** The real file system until its `killAt`th changing operation, which is done by half or not at all; after that, nothing works. */
export class MortalFs {
  operations = 0;
  dead = false;
  killAt = Number.POSITIVE_INFINITY;
  /** Of the operation that kills: bytes that a write still gets done. */
  half: (bytes: number) => number = (bytes) => bytes >> 1;
  /** Makes writes to the log fail without killing; answers an error code or nothing. */
  fault: () => string | undefined = () => undefined;
  onDeath: () => void = () => {};
  /** Resolves when it has died. */
  readonly death: Promise<void>;

  constructor() {
    this.death = new Promise((resolve) => {
      this.onDeath = resolve;
    });
  }

  get fs(): LogFs {
    const step = () => this.#step();
    return {
      ...realFs,
      open: async (...args: Parameters<typeof realFs.open>) => {
        step();
        return this.#handle(await realFs.open(...args), String(args[0]));
      },
      lstat: (async (...args: Parameters<typeof realFs.lstat>) => {
        this.#alive();
        return realFs.lstat(...args);
      }) as typeof realFs.lstat,
      readdir: (async (path: string) => {
        this.#alive();
        return realFs.readdir(path);
      }) as typeof realFs.readdir,
      mkdir: (async (path: string, options: object) => {
        step();
        return realFs.mkdir(path, options);
      }) as typeof realFs.mkdir,
    };
  }

  #alive(): void {
    if (this.dead) throw new Error("killed");
  }

  #step(): void {
    this.#alive();
    this.operations += 1;
    if (this.operations >= this.killAt) this.#die();
  }

  #die(): never {
    this.dead = true;
    this.onDeath();
    throw new Error("killed");
  }

  #handle(handle: FileHandle, path: string): FileHandle {
    const write = async (bytes: Buffer, offset: number, length: number, position: number | null) => {
      this.#alive();
      this.operations += 1;
      if (this.operations >= this.killAt) {
        const some = this.half(length);
        // A record's slot is within one page: the kernel copies it whole or not at all.
        if (some > 0 && position === null) await handle.write(bytes, offset, some, position);
        this.#die();
      }
      const code = position === null && path !== "" ? this.fault() : undefined;
      if (code === "partial") return handle.write(bytes, offset, Math.max(1, length >> 1), position);
      if (code) throw Object.assign(new Error(`${code}: no space left on device`), { code });
      return handle.write(bytes, offset, length, position);
    };
    const truncate = async (length: number) => {
      this.#step();
      return handle.truncate(length);
    };
    return new Proxy(handle, {
      get(target, name) {
        if (name === "write") return write;
        if (name === "truncate") return truncate;
        const value = Reflect.get(target, name);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }
}
