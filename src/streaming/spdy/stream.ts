import { PodvmError } from "../../host/errors.js";
import { ByteQueue } from "../byte-queue.js";
import type { ByteSink } from "../session.js";
import { Reset } from "./frames.js";

/** What a stream needs of its connection. */
export interface StreamHost {
  /** Bytes that this stream may send now; 0: wait for `changed`. */
  allowance(stream: SpdyStream): number;
  /** Resolves after anything that allowances depend on has changed. */
  changed(): Promise<void>;
  sendData(streamId: number, data: Buffer, fin: boolean): void;
  sendReset(streamId: number, code: number): void;
  /** Bytes of the stream have been taken by their reader, or dropped. */
  taken(stream: SpdyStream, bytes: number): void;
  /** Both directions are closed, or the stream was reset. */
  finished(stream: SpdyStream): void;
}

/**
 * One stream of a connection, opened by the client.
 *
 *        both open ── end() ──► we are done ── client's FIN ──► finished
 *            │ client's FIN                                        ▲
 *            └──────► client is done ── end() ─────────────────────┤
 *        any state ── reset by either side, connection gone ───────┘
 */
export class SpdyStream implements ByteSink {
  readonly id: number;
  readonly headers: ReadonlyMap<string, string>;
  /** What the client sends. */
  readonly source: ByteQueue;
  /** Flow control: what the client still takes (may be negative, see SETTINGS), and what it was not yet told that we took. */
  sendWindow: number;
  untold = 0;
  readonly #host: StreamHost;
  readonly #abort = new AbortController();
  #sentFin = false;
  #gotFin = false;

  constructor(host: StreamHost, id: number, headers: ReadonlyMap<string, string>, sendWindow: number) {
    this.#host = host;
    this.id = id;
    this.headers = headers;
    this.sendWindow = sendWindow;
    this.source = new ByteQueue((bytes) => this.#host.taken(this, bytes));
  }

  /** Aborted when the stream was reset by the client, or its connection is gone. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  get clientDone(): boolean {
    return this.#gotFin;
  }

  async write(data: Buffer): Promise<void> {
    let rest = data;
    while (rest.length > 0) {
      if (this.signal.aborted) throw this.signal.reason;
      if (this.#sentFin) throw new PodvmError("cancelled", `SPDY: stream ${this.id} was ended`);
      const allowed = this.#host.allowance(this);
      if (allowed <= 0) {
        await this.#host.changed();
        continue;
      }
      const part = rest.subarray(0, allowed);
      rest = rest.subarray(part.length);
      this.#host.sendData(this.id, part, false);
    }
  }

  async end(): Promise<void> {
    if (this.#sentFin || this.signal.aborted) return;
    this.#sentFin = true;
    this.#host.sendData(this.id, Buffer.alloc(0), true);
    if (this.#gotFin) this.#host.finished(this);
  }

  /** Tells the client that this stream is not wanted any more. */
  reset(code: number = Reset.CANCEL): void {
    if (this.signal.aborted) return;
    this.#host.sendReset(this.id, code);
    this.abandoned(new PodvmError("cancelled", `SPDY: stream ${this.id} was reset by the server`));
  }

  /** The client's FIN. */
  onFin(): void {
    if (this.#gotFin) return;
    this.#gotFin = true;
    this.source.end();
    if (this.#sentFin) this.#host.finished(this);
  }

  /** The stream is no more: readers and writers get `reason`. */
  abandoned(reason: Error): void {
    if (this.signal.aborted) return;
    this.#abort.abort(reason);
    this.source.fail(reason);
    this.#host.finished(this);
  }
}
