/** Binary channels over one WebSocket: the first byte of each message is the channel's number. */
import type { WebSocket } from "ws";
import { PodvmError } from "../host/errors.js";
import { ByteQueue } from "./byte-queue.js";
import type { ByteSink } from "./session.js";

/** Longest message taken; also what one message may hold in memory beside the queues. */
export const MAX_MESSAGE = 1 << 20;
const MAX_UNREAD = 1 << 20;
const MAX_UNSENT = 256 * 1024;
const PROBE_MS = 5000;
const CLOSE_SIGNAL = 255;

/**
 * Owns `socket`. While the reader of a channel is behind, the socket is not read; unasked-for pongs then tell the client that we live (client-go
 * gives up after 61 s without any) and tell us that the client does (they cannot be sent when it is gone).
 */
export class WebSocketChannels {
  /** Resolves when the connection is gone. Never rejects. */
  readonly closed: Promise<void>;
  readonly #socket: WebSocket;
  readonly #abort = new AbortController();
  readonly #sources = new Map<number, ByteQueue>();
  #unsent = 0;
  #waiters: (() => void)[] = [];
  #probe: NodeJS.Timeout | undefined;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => this.signal.addEventListener("abort", () => resolve(), { once: true }));
    socket.on("message", (message, isBinary) => this.#message(message as Buffer, isBinary));
    socket.on("error", (err) => this.destroy(new PodvmError("cancelled", `the connection is gone: ${err.message}`)));
    socket.on("close", () => this.destroy(new PodvmError("cancelled", "the connection is gone: the client closed it")));
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Memory held for the readers and for the client to take, in bytes. */
  get held(): number {
    return this.#unread() + this.#unsent;
  }

  /** What the client sends on a channel; other channels' messages are dropped. */
  source(channel: number): ByteQueue {
    const queue = new ByteQueue(() => this.#flow());
    this.#sources.set(channel, queue);
    return queue;
  }

  /** `end` tells nothing to the client: these protocols have no such message from the server. */
  sink(channel: number): ByteSink {
    let ended = false;
    return {
      write: async (data) => {
        if (ended) throw new PodvmError("cancelled", `channel ${channel} was ended`);
        await this.send(channel, data);
      },
      end: async () => {
        ended = true;
      },
    };
  }

  /** One message, which may be empty. Waits before while too much is unsent. */
  async send(channel: number, data: Buffer): Promise<void> {
    while (this.#unsent >= MAX_UNSENT && !this.signal.aborted) {
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
    if (this.signal.aborted) throw this.signal.reason;
    const message = Buffer.allocUnsafe(1 + data.length);
    message.writeUInt8(channel, 0);
    data.copy(message, 1);
    this.#unsent += message.length;
    this.#socket.send(message, { binary: true }, () => {
      this.#unsent -= message.length;
      this.#change();
    });
  }

  /** Closes after what was sent; cut when the client does not agree within `graceMs`. */
  async finish(graceMs: number): Promise<void> {
    for (const queue of this.#sources.values()) queue.discard();
    this.#socket.close(1000);
    const timer = setTimeout(
      () => this.destroy(new PodvmError("cancelled", "the connection is gone: the client did not close it in time")),
      graceMs,
    );
    await this.closed;
    clearTimeout(timer);
  }

  destroy(reason: PodvmError): void {
    if (this.signal.aborted) return;
    this.#abort.abort(reason);
    clearInterval(this.#probe);
    for (const queue of this.#sources.values()) queue.fail(reason);
    this.#socket.terminate();
    this.#change();
  }

  #message(message: Buffer, isBinary: boolean): void {
    if (!isBinary || message.length === 0) {
      this.destroy(new PodvmError("invalid_argument", "WebSocket: wanted binary messages that begin with a channel"));
      return;
    }
    const channel = message.readUInt8(0);
    if (channel === CLOSE_SIGNAL) {
      if (message.length > 1) this.#sources.get(message.readUInt8(1))?.end();
      return;
    }
    this.#sources.get(channel)?.push(message.subarray(1));
    this.#flow();
  }

  #flow(): void {
    const full = this.#unread() > MAX_UNREAD;
    if (full && !this.#socket.isPaused) {
      this.#socket.pause();
      this.#probe = setInterval(() => this.#socket.pong(), PROBE_MS);
    } else if (!full && this.#socket.isPaused) {
      clearInterval(this.#probe);
      this.#socket.resume();
    }
  }

  #unread(): number {
    let sum = 0;
    for (const queue of this.#sources.values()) sum += queue.cost;
    return sum;
  }

  #change(): void {
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter();
  }
}
