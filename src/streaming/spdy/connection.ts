/**
 * The server's side of one SPDY/3.1 connection, as Kubernetes' clients speak it (moby/spdystream): streams opened by the client only.
 *
 * Memory is bounded whatever the client does: frames are handled one after another, the payload of data frames as it comes in; reading
 * stops while a stream holds too much, or the client does not read what it is sent. Flow-control windows are kept for clients that use them;
 * spdystream does not, so the bound that always holds is the connection's own back-pressure, and one stalled stream stalls its neighbours.
 */
import type { Duplex } from "node:stream";
import { PodvmError } from "../../host/errors.js";
import {
  DEFAULT_WINDOW,
  dataHead,
  FLAG_FIN,
  FLAG_UNIDIRECTIONAL,
  FrameType,
  GoAway,
  goAway,
  HEADER_BYTES,
  MAX_WINDOW,
  parseHead,
  ping,
  Reset,
  rstStream,
  SETTINGS_INITIAL_WINDOW_SIZE,
  synReply,
  windowUpdate,
} from "./frames.js";
import { HeaderReader, HeaderWriter } from "./headers.js";
import { ByteReader } from "./reader.js";
import { SpdyStream, type StreamHost } from "./stream.js";

export interface SpdyOptions {
  /** Told of each stream, which is accepted already. Must not throw. */
  onStream(stream: SpdyStream): void;
  limits?: Partial<SpdyLimits>;
}

export interface SpdyLimits {
  /** Payload of one control frame. */
  controlBytes: number;
  /** Streams open at a time; one more is refused. */
  streams: number;
  /** What one stream, and all of them, may hold unread before reading stops. */
  streamBytes: number;
  totalBytes: number;
  /** What may wait to be sent before streams are made to wait. */
  unsentBytes: number;
  /** Payload of one data frame that we send. */
  frameBytes: number;
  /** While reading has stopped, the client is pinged this often: the only way to notice that it is gone. */
  probeMs: number;
}

export const DEFAULT_LIMITS: SpdyLimits = {
  controlBytes: 16 * 1024,
  streams: 1024,
  streamBytes: 1 << 20,
  totalBytes: 4 << 20,
  unsentBytes: 256 * 1024,
  frameBytes: 32 * 1024,
  probeMs: 5000,
};

/** For a client to close the connection that it has said goodbye on. */
const GONE_AWAY_MS = 5000;

export class SpdyConnection implements StreamHost {
  /** Resolves when the connection is gone. Never rejects. */
  readonly closed: Promise<void>;
  readonly #transport: Duplex;
  readonly #options: SpdyOptions;
  readonly #limits: SpdyLimits;
  readonly #reader: ByteReader;
  readonly #headerReader = new HeaderReader();
  readonly #headerWriter = new HeaderWriter();
  readonly #streams = new Map<number, SpdyStream>();
  readonly #abort = new AbortController();
  #waiters: (() => void)[] = [];
  #lastStreamId = 0;
  #pings = 0;
  #clientGoesAway = false;
  /** True once the client has shown that it keeps windows, of streams and of the whole connection. */
  #windows = false;
  #sharedWindows = false;
  #initialWindow = DEFAULT_WINDOW;
  #sharedWindow = DEFAULT_WINDOW;
  #sharedUntold = 0;

  /** Owns `transport` from here on. */
  constructor(transport: Duplex, options: SpdyOptions) {
    this.#transport = transport;
    this.#options = options;
    this.#limits = { ...DEFAULT_LIMITS, ...options.limits };
    this.#reader = new ByteReader(transport);
    this.closed = new Promise((resolve) => {
      this.signal.addEventListener("abort", () => resolve(), { once: true });
    });
    transport.on("drain", () => this.#change());
    transport.on("error", (err) => this.destroy(gone(err.message)));
    transport.on("close", () => this.destroy(gone("the client closed it")));
    this.#run().then(
      () => this.destroy(gone("the client closed it")),
      (err) => this.#violated(err),
    );
  }

  /** Aborted, with the reason, when the connection is gone. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Memory held for streams and for the client to take, in bytes. */
  get held(): number {
    let sum = this.#transport.writableLength;
    for (const stream of this.#streams.values()) sum += stream.source.cost;
    return sum;
  }

  get openStreams(): number {
    return this.#streams.size;
  }

  /**
   * Ends the connection after what was sent: the client has `graceMs` to close it itself (it does so when it has read all of its streams), then
   * it is told to go away, and after as long again it is cut.
   */
  async finish(graceMs: number): Promise<void> {
    for (const stream of this.#streams.values()) stream.source.discard();
    if (await this.#closedWithin(graceMs)) return;
    this.#send(goAway(this.#lastStreamId, GoAway.OK));
    this.#transport.end();
    if (await this.#closedWithin(graceMs)) return;
    this.destroy(gone("the client did not close it in time"));
  }

  /** Cuts the connection; all its streams end with `reason`. Idempotent. */
  destroy(reason: PodvmError): void {
    if (this.signal.aborted) return;
    this.#abort.abort(reason);
    for (const stream of [...this.#streams.values()]) stream.abandoned(reason);
    this.#headerReader.close();
    this.#headerWriter.close();
    this.#transport.destroy();
    this.#change();
  }

  // For streams.

  allowance(stream: SpdyStream): number {
    if (this.#transport.writableLength >= this.#limits.unsentBytes) return 0;
    let allowed = this.#limits.frameBytes;
    if (this.#windows) allowed = Math.min(allowed, stream.sendWindow);
    if (this.#sharedWindows) allowed = Math.min(allowed, this.#sharedWindow);
    return Math.max(0, allowed);
  }

  changed(): Promise<void> {
    if (this.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push(resolve));
  }

  sendData(streamId: number, data: Buffer, fin: boolean): void {
    const stream = this.#streams.get(streamId);
    if (stream) stream.sendWindow -= data.length;
    this.#sharedWindow -= data.length;
    const head = dataHead(streamId, data.length, fin);
    this.#transport.cork();
    this.#send(head);
    if (data.length > 0) this.#send(data);
    this.#transport.uncork();
  }

  sendReset(streamId: number, code: number): void {
    this.#send(rstStream(streamId, code));
  }

  taken(stream: SpdyStream, bytes: number): void {
    stream.untold += bytes;
    this.#sharedUntold += bytes;
    if (stream.untold >= DEFAULT_WINDOW / 2 && !stream.clientDone && !stream.signal.aborted) {
      this.#send(windowUpdate(stream.id, stream.untold));
      stream.untold = 0;
    }
    if (this.#sharedUntold >= DEFAULT_WINDOW / 2) {
      this.#send(windowUpdate(0, this.#sharedUntold));
      this.#sharedUntold = 0;
    }
    this.#change();
  }

  finished(stream: SpdyStream): void {
    this.#streams.delete(stream.id);
    this.#change();
    this.#endIfUseless();
  }

  // Reading.

  async #run(): Promise<void> {
    for (;;) {
      const bytes = await this.#reader.exactly(HEADER_BYTES);
      if (!bytes || this.signal.aborted) return;
      const head = parseHead(bytes);
      if (!head.control) {
        if (!(await this.#data(head.streamId, head.length, (head.flags & FLAG_FIN) !== 0))) return;
        continue;
      }
      if (head.version !== 3) throw wrong(`version ${head.version}, wanted 3`);
      if (head.length > this.#limits.controlBytes) {
        throw wrong(`a control frame of ${head.length} bytes, at most ${this.#limits.controlBytes} are taken`);
      }
      const payload = await this.#reader.exactly(head.length);
      if (!payload || this.signal.aborted) return;
      await this.#control(head.type, head.flags, payload);
      await this.#stallWhile(() => this.#transport.writableLength > this.#limits.unsentBytes);
    }
  }

  /** False when the connection has ended within the frame. */
  async #data(streamId: number, length: number, fin: boolean): Promise<boolean> {
    const { streamBytes, totalBytes } = this.#limits;
    for (let left = length; left > 0; ) {
      const part = await this.#reader.some(left);
      if (!part || this.signal.aborted) return false;
      left -= part.length;
      const stream = this.#streams.get(streamId);
      if (!stream || stream.clientDone)
        this.#dropped(part.length); // of a stream that was reset meanwhile
      else {
        stream.source.push(part);
        await this.#stallWhile(() => stream.source.cost > streamBytes || this.#heldUnread() > totalBytes);
      }
    }
    if (fin) this.#streams.get(streamId)?.onFin();
    return true;
  }

  async #control(type: number, flags: number, payload: Buffer): Promise<void> {
    switch (type) {
      case FrameType.SYN_STREAM:
        return this.#synStream(flags, payload);
      case FrameType.SYN_REPLY:
      case FrameType.HEADERS: {
        const id = streamIdOf(payload);
        // Decompressed also where nobody wants it: all blocks are one zlib stream.
        await this.#headerReader.read(payload.subarray(4));
        if (flags & FLAG_FIN) this.#streams.get(id)?.onFin();
        return;
      }
      case FrameType.RST_STREAM:
        if (payload.length < 8) throw wrong("a RST_STREAM frame cut short");
        this.#streams.get(streamIdOf(payload))?.abandoned(gone("the client reset the stream"));
        return;
      case FrameType.SETTINGS:
        return this.#settings(payload);
      case FrameType.PING: {
        const id = number(payload, 0);
        if (id & 1) this.#send(ping(id)); // even ones are answers to ours
        return;
      }
      case FrameType.GOAWAY:
        this.#clientGoesAway = true;
        return this.#endIfUseless();
      case FrameType.WINDOW_UPDATE:
        return this.#windowUpdate(streamIdOf(payload), number(payload, 4) & MAX_WINDOW);
      default: // unknown ones are to be ignored, says the protocol
    }
  }

  async #synStream(flags: number, payload: Buffer): Promise<void> {
    if (payload.length < 10) throw wrong("a SYN_STREAM frame cut short");
    const id = streamIdOf(payload);
    const headers = await this.#headerReader.read(payload.subarray(10));
    if (id % 2 === 0 || id <= this.#lastStreamId) throw wrong(`stream id ${id} after ${this.#lastStreamId}`);
    this.#lastStreamId = id;
    if (flags & FLAG_UNIDIRECTIONAL) return this.#send(rstStream(id, Reset.PROTOCOL_ERROR));
    if (this.#streams.size >= this.#limits.streams) return this.#send(rstStream(id, Reset.REFUSED_STREAM));
    const block = await this.#headerWriter.empty();
    if (this.signal.aborted) return;
    const stream = new SpdyStream(this, id, headers, this.#initialWindow);
    this.#streams.set(id, stream);
    this.#send(synReply(id, block)); // first of all: clients drop data of a stream that was not replied to
    this.#options.onStream(stream);
    if (flags & FLAG_FIN) stream.onFin();
  }

  #settings(payload: Buffer): void {
    const count = number(payload, 0);
    if (count > (payload.length - 4) / 8) throw wrong(`${count} settings in ${payload.length} bytes`);
    for (let i = 0; i < count; i++) {
      if ((number(payload, 4 + i * 8) & 0xffffff) !== SETTINGS_INITIAL_WINDOW_SIZE) continue;
      const size = number(payload, 8 + i * 8);
      if (size > MAX_WINDOW) throw wrong(`an initial window of ${size} bytes`);
      this.#windows = true;
      for (const stream of this.#streams.values()) stream.sendWindow += size - this.#initialWindow;
      this.#initialWindow = size;
    }
    this.#change();
  }

  #windowUpdate(id: number, delta: number): void {
    this.#windows = true;
    const stream = this.#streams.get(id);
    if (id === 0) {
      this.#sharedWindows = true;
      this.#sharedWindow += delta;
      if (delta === 0 || this.#sharedWindow > MAX_WINDOW) throw wrong("a window of more than 2 GiB");
    } else if (stream) {
      stream.sendWindow += delta;
      if (delta === 0 || stream.sendWindow > MAX_WINDOW) stream.reset(Reset.FLOW_CONTROL_ERROR);
    }
    this.#change();
  }

  #dropped(bytes: number): void {
    this.#sharedUntold += bytes;
  }

  #heldUnread(): number {
    let sum = 0;
    for (const stream of this.#streams.values()) sum += stream.source.cost;
    return sum;
  }

  /** Stops reading. Nothing tells then that the client has closed its end, except a ping that cannot be delivered. */
  async #stallWhile(full: () => boolean): Promise<void> {
    if (!full() || this.signal.aborted) return;
    const probe = setInterval(() => {
      this.#pings += 2;
      if (this.#transport.writableLength <= this.#limits.unsentBytes) this.#send(ping(this.#pings & MAX_WINDOW));
    }, this.#limits.probeMs);
    try {
      while (full() && !this.signal.aborted) await this.changed();
    } finally {
      clearInterval(probe);
    }
  }

  /** A client that has gone away opens no more streams. */
  #endIfUseless(): void {
    if (this.#clientGoesAway && this.#streams.size === 0 && !this.signal.aborted) void this.finish(GONE_AWAY_MS);
  }

  #send(bytes: Buffer): void {
    if (!this.signal.aborted && this.#transport.writable) this.#transport.write(bytes);
  }

  /** Wakes all that wait; each looks again whether it can go on. */
  #change(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }

  #violated(err: unknown): void {
    const reason = PodvmError.from(err);
    this.#send(goAway(this.#lastStreamId, GoAway.PROTOCOL_ERROR));
    this.destroy(reason);
  }

  async #closedWithin(ms: number): Promise<boolean> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, ms);
    });
    await Promise.race([this.closed, late]);
    clearTimeout(timer);
    return this.signal.aborted;
  }
}

function wrong(what: string): PodvmError {
  return new PodvmError("invalid_argument", `SPDY: against the protocol: ${what}`);
}

function gone(why: string): PodvmError {
  return new PodvmError("cancelled", `the connection is gone: ${why}`);
}

function number(payload: Buffer, at: number): number {
  if (at + 4 > payload.length) throw wrong("a control frame cut short");
  return payload.readUInt32BE(at);
}

function streamIdOf(payload: Buffer): number {
  return number(payload, 0) & 0x7fffffff;
}
