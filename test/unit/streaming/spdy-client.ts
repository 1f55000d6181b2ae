/** A SPDY/3.1 client that sends what a test says, also what no client should. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { constants, createDeflate } from "node:zlib";
import { DICTIONARY } from "../../../src/streaming/spdy/dictionary.js";
import { control, dataHead, type FrameHead, FrameType, parseHead } from "../../../src/streaming/spdy/frames.js";

export type Frame = FrameHead & { payload: Buffer };

/** Compresses header blocks as one stream, as clients do. */
export class BlockWriter {
  readonly #deflate = createDeflate({ dictionary: DICTIONARY });

  async block(headers: Record<string, string>): Promise<Buffer> {
    const parts: Buffer[] = [];
    const number = (value: number) => {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32BE(value);
      parts.push(bytes);
    };
    number(Object.keys(headers).length);
    for (const text of Object.entries(headers).flat()) {
      number(Buffer.byteLength(text));
      parts.push(Buffer.from(text));
    }
    return this.raw(Buffer.concat(parts));
  }

  async raw(bytes: Buffer): Promise<Buffer> {
    const pieces: Buffer[] = [];
    const collect = (piece: Buffer) => pieces.push(piece);
    this.#deflate.on("data", collect);
    await new Promise<void>((resolve) => {
      this.#deflate.write(bytes);
      this.#deflate.flush(constants.Z_SYNC_FLUSH, resolve);
    });
    this.#deflate.off("data", collect);
    return Buffer.concat(pieces);
  }
}

/** The frame that opens a stream, from its compressed headers. */
export function synStream(id: number, block: Buffer, flags = 0): Buffer {
  const head = Buffer.alloc(10);
  head.writeUInt32BE(id);
  return control(FrameType.SYN_STREAM, Buffer.concat([head, block]), flags);
}

export function dataFrame(id: number, data: Buffer | string, fin = false): Buffer {
  const bytes = Buffer.from(data);
  return Buffer.concat([dataHead(id, bytes.length, fin), bytes]);
}

export class SpdyClient {
  readonly frames: Frame[] = [];
  /** What was sent on each stream's data frames. */
  readonly received = new Map<number, Buffer[]>();
  readonly ended = new Set<number>();
  readonly #blocks = new BlockWriter();
  #rest: Buffer = Buffer.alloc(0);
  #lastId = -1;

  private constructor(readonly socket: Socket) {
    socket.on("error", () => {});
    socket.on("data", (data) => this.#take(data));
  }

  /** The socket of a client whose upgrade was answered, and the answer's head. */
  static async connect(
    url: string,
    headers: Record<string, string> = {},
  ): Promise<{ answer: string; client: SpdyClient }> {
    const { answer, socket, rest } = await upgrade(url, {
      Connection: "Upgrade",
      Upgrade: "SPDY/3.1",
      "X-Stream-Protocol-Version": "v4.channel.k8s.io",
      ...headers,
    });
    const client = new SpdyClient(socket);
    client.#take(rest);
    return { answer, client };
  }

  /** Opens a stream; its id. */
  async open(headers: Record<string, string>): Promise<number> {
    this.#lastId += 2;
    this.socket.write(synStream(this.#lastId, await this.#blocks.block(headers)));
    return this.#lastId;
  }

  text(id: number): string {
    return Buffer.concat(this.received.get(id) ?? []).toString();
  }

  of(type: number): Frame[] {
    return this.frames.filter((frame) => frame.control && frame.type === type);
  }

  #take(data: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, data]);
    while (this.#rest.length >= 8) {
      const head = parseHead(this.#rest);
      if (this.#rest.length < 8 + head.length) return;
      const payload = Buffer.from(this.#rest.subarray(8, 8 + head.length));
      this.#rest = this.#rest.subarray(8 + head.length);
      if (head.control) this.frames.push({ ...head, payload });
      else {
        const all = this.received.get(head.streamId) ?? [];
        all.push(payload);
        this.received.set(head.streamId, all);
        if (head.flags & 1) this.ended.add(head.streamId);
      }
    }
  }
}

/** Sends one request and reads the head of its answer. */
export async function upgrade(
  url: string,
  headers: Record<string, string>,
  method = "POST",
): Promise<{ answer: string; socket: Socket; rest: Buffer }> {
  const { hostname, port, pathname } = new URL(url);
  const socket = connect(Number(port), hostname);
  await once(socket, "connect");
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`${method} ${pathname} HTTP/1.1\r\nHost: x\r\n${lines.join("")}\r\n`);
  let all = Buffer.alloc(0);
  for (;;) {
    const [data] = (await Promise.race([once(socket, "data"), once(socket, "close").then(() => [])])) as [Buffer?];
    if (!data) return { answer: all.toString("latin1"), socket, rest: Buffer.alloc(0) };
    all = Buffer.concat([all, data]);
    const end = all.indexOf("\r\n\r\n");
    if (end >= 0 && all.includes("101 Switching")) {
      return { answer: all.toString("latin1", 0, end), socket, rest: all.subarray(end + 4) };
    }
    if (end >= 0 && !all.includes("101 Switching")) {
      const length = Number(/content-length: (\d+)/i.exec(all.toString("latin1"))?.[1] ?? 0);
      if (all.length >= end + 4 + length) {
        socket.destroy();
        return { answer: all.toString("latin1"), socket, rest: Buffer.alloc(0) };
      }
    }
  }
}
