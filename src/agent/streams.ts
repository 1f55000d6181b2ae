/** The agent's streams in the shape that their users need: batches with back-pressure, no lost errors. */
import type { ClientDuplexStream, ClientWritableStream, ServiceError } from "@grpc/grpc-js";
import type {
  AcceptSocketRequest,
  DialRequest,
  DialResponse,
  ExecRequest,
  ExecResponse,
  ExecStart,
  InputRequest,
  InputResponse,
  OutputChunk,
  OutputRequest,
} from "../gen/agent/v1/agent.js";
import { PodvmError } from "../host/errors.js";
import { fromGrpc } from "./errors.js";

export interface OutputStream {
  /**
   * The chunks that have arrived, at least one, of about `maxBytes` together; undefined after a regular end. Rejects when the stream
   * broke, after everything that had arrived was handed out. Not to be called again before it has settled.
   */
  next(maxBytes: number): Promise<OutputChunk[] | undefined>;
  acknowledge(stdoutOffset: bigint, stderrOffset: bigint): void;
  cancel(): void;
}

export function outputStream(
  stream: ClientDuplexStream<OutputRequest, OutputChunk>,
  containerId: string,
): OutputStream {
  const reader = new Reader(stream, `Output of ${containerId}`);
  // A guest that does not read acknowledgements must not make them pile up here: only the latest counts.
  let waiting: OutputRequest | undefined;
  let blocked = false;
  const send = (request: OutputRequest) => {
    blocked = !stream.write(request);
  };
  stream.on("drain", () => {
    blocked = false;
    const request = waiting;
    waiting = undefined;
    if (request) send(request);
  });
  return {
    next: (maxBytes) => reader.next(maxBytes, (chunk) => chunk.data.length),
    acknowledge(stdoutOffset, stderrOffset) {
      if (reader.ended) return;
      const request = { containerId: "", stdoutOffset, stderrOffset };
      if (blocked) waiting = request;
      else send(request);
    },
    cancel: () => reader.cancel(),
  };
}

export interface ExecStream {
  /** Next message, undefined after the end. `exit` is the last one; an end without it rejects. */
  next(): Promise<ExecResponse | undefined>;
  /** Resolves when the stream takes more. Rejects with unavailable when it has ended. */
  write(data: Buffer): Promise<void>;
  closeStdin(): void;
  /** Ends the stream, and with it the command. */
  cancel(): void;
}

export function execStream(stream: ClientDuplexStream<ExecRequest, ExecResponse>, start: ExecStart): ExecStream {
  const what = `Exec in ${start.containerId}`;
  const reader = new Reader(stream, what);
  stream.write({ start });
  let exited = false;
  return {
    async next() {
      const [message] = (await reader.next(1, () => 1)) ?? [];
      if (message?.exit) exited = true;
      if (message === undefined && !exited) {
        throw new PodvmError("internal", `agent: ${what}: the stream ended without an exit record`);
      }
      return message;
    },
    write: (data) => writeSlowly(stream, { stdin: data }, what, () => reader.ended),
    closeStdin() {
      if (!reader.ended) stream.write({ closeStdin: true });
    },
    cancel: () => reader.cancel(),
  };
}

export interface DialStream {
  /** The first message says that the connection is made, later ones carry data or its end. Undefined after both directions have ended. */
  next(): Promise<DialResponse | undefined>;
  /** Resolves when the stream takes more. Rejects with unavailable when it has ended. */
  write(data: Buffer): Promise<void>;
  /** No more data in this direction; the other goes on. */
  closeWrite(): void;
  /** Cuts the connection. */
  cancel(): void;
}

export function dialStream(stream: ClientDuplexStream<DialRequest, DialResponse>, port: number): DialStream {
  stream.write({ port, data: Buffer.alloc(0) });
  return connection(stream, `Dial of port ${port}`, (data) => ({ port: 0, data }));
}

/** Of AcceptSocket: the first message comes when somebody has connected. */
export function acceptStream(
  stream: ClientDuplexStream<AcceptSocketRequest, DialResponse>,
  volumeId: string,
): DialStream {
  stream.write({ volumeId, data: Buffer.alloc(0) });
  return connection(stream, `AcceptSocket of ${volumeId}`, (data) => ({ volumeId: "", data }));
}

function connection<Request>(
  stream: ClientDuplexStream<Request, DialResponse>,
  what: string,
  request: (data: Buffer) => Request,
): DialStream {
  const reader = new Reader(stream as ClientDuplexStream<never, DialResponse>, what);
  return {
    next: async () => (await reader.next(1, () => 1))?.[0],
    write: (data) => writeSlowly(stream, request(data), what, () => reader.ended),
    closeWrite() {
      if (!reader.ended) stream.end();
    },
    cancel: () => reader.cancel(),
  };
}

export interface InputStream {
  write(data: Buffer): Promise<void>;
  /** Ends this stream; with `close` the container's stdin too. Answers the bytes that the container's pipe took. */
  end(close: boolean): Promise<bigint>;
  /** Settles when the agent ends the stream: rejects where that is an error. */
  readonly done: Promise<bigint>;
  cancel(): void;
}

export function inputStream(
  open: (callback: (err: ServiceError | null, response: InputResponse) => void) => ClientWritableStream<InputRequest>,
  containerId: string,
): InputStream {
  const what = `Input of ${containerId}`;
  let ended = false;
  let stream: ClientWritableStream<InputRequest> | undefined;
  const done = new Promise<bigint>((resolve, reject) => {
    stream = open((err, response) => {
      ended = true;
      stream?.emit("drain"); // lets a blocked writer find the end
      if (err) reject(fromGrpc(err, what));
      else resolve(response.written);
    });
  });
  done.catch(() => {}); // who writes learns of the end by that
  const opened = stream as unknown as ClientWritableStream<InputRequest>;
  opened.on("error", () => {});
  opened.write({ containerId, data: Buffer.alloc(0), close: false });
  return {
    write: (data) => writeSlowly(opened, { containerId: "", data, close: false }, what, () => ended),
    end(close) {
      if (!ended) {
        if (close) opened.write({ containerId: "", data: Buffer.alloc(0), close: true });
        opened.end();
      }
      return done;
    },
    done,
    cancel: () => opened.cancel(),
  };
}

interface Writable<T> {
  write(message: T): boolean;
  once(event: "drain", listener: () => void): unknown;
}

async function writeSlowly<T>(stream: Writable<T>, message: T, what: string, ended: () => boolean): Promise<void> {
  if (ended()) throw new PodvmError("unavailable", `agent: ${what}: the stream has ended`);
  if (stream.write(message)) return;
  await new Promise<void>((resolve) => stream.once("drain", resolve));
  if (ended()) throw new PodvmError("unavailable", `agent: ${what}: the stream has ended`);
}

/**
 * Reads a grpc-js stream at the caller's pace. grpc-js emits the error beside the data and does not destroy the stream, so what arrived
 * before it can still be read; the error is told at the end.
 */
class Reader<Message> {
  ended = false;
  readonly #stream: ClientDuplexStream<never, Message>;
  readonly #what: string;
  #error: PodvmError | undefined;
  #wake: (() => void) | undefined;

  constructor(stream: ClientDuplexStream<never, Message>, what: string) {
    this.#stream = stream;
    this.#what = what;
    const wake = () => this.#wake?.();
    stream.on("readable", wake);
    stream.on("end", () => {
      this.ended = true;
      stream.emit("drain"); // lets a blocked writer find the end
      wake();
    });
    stream.on("error", (err) => {
      this.ended = true;
      this.#error = fromGrpc(err, what);
      stream.emit("drain");
      wake();
    });
  }

  async next(max: number, size: (message: Message) => number): Promise<Message[] | undefined> {
    const batch: Message[] = [];
    let taken = 0;
    for (;;) {
      while (taken < max) {
        const message = this.#stream.read() as Message | null;
        if (message === null) break;
        batch.push(message);
        taken += size(message);
      }
      if (batch.length > 0) return batch;
      if (this.#error) throw this.#error;
      if (this.ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }

  cancel(): void {
    this.#error ??= new PodvmError("cancelled", `agent: ${this.#what}: cancelled`);
    this.#stream.cancel();
    this.ended = true;
    this.#wake?.();
  }
}
