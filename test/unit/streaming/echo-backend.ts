/** A backend whose commands live in this process, and a server in front of it. */
import { setTimeout as sleep } from "node:timers/promises";
import type { ExecutionContext } from "ava";
import { PodvmError } from "../../../src/host/errors.js";
import { silentLogger } from "../../../src/host/log.js";
import {
  createStreamingServer,
  type StreamingServer,
  type StreamingServerOptions,
} from "../../../src/streaming/server.js";
import type { ExecRequest, ForwardIo, RemoteIo, StreamBackend } from "../../../src/streaming/session.js";

const PIECE = 32 * 1024;

export class EchoBackend implements StreamBackend {
  /** Bytes that the commands have written, and that the sinks have taken. */
  written = 0;
  /** Commands and connections that run. */
  running = 0;
  /** Reasons of the signals that were aborted while something ran. */
  readonly aborted: string[] = [];

  async exec(request: ExecRequest, io: RemoteIo): Promise<number> {
    return this.#counted(io.signal, () => this.#command(request.command, io));
  }

  async attach(_request: unknown, io: RemoteIo): Promise<void> {
    await this.#counted(io.signal, () => this.#command(["cat"], io));
  }

  /** Port 7 echoes, 9 takes nothing until it is cut, 13 says "hello" at once and ends, 19 sends until nobody wants more; others refuse. */
  async portForward(_podId: string, port: number, io: ForwardIo): Promise<void> {
    await this.#counted(io.signal, async () => {
      if (port === 7) for await (const data of io.source) await io.sink.write(data);
      else if (port === 9) {
        await untilAborted(io.signal);
        throw new PodvmError("cancelled", "cut by the client");
      } else if (port === 13) await io.sink.write(Buffer.from("hello"));
      else if (port === 19) for (;;) await this.#write(io.sink, Buffer.alloc(PIECE));
      else throw new PodvmError("unavailable", `nothing listens on port ${port}`);
    });
  }

  async #command([name, arg = "0"]: string[], io: RemoteIo): Promise<number> {
    const { stdin, stdout, stderr } = io;
    switch (name) {
      case "cat":
        if (stdin) for await (const data of stdin) await this.#write(stdout, data);
        return 0;
      case "count": {
        let bytes = 0;
        if (stdin) for await (const data of stdin) bytes += data.length;
        await this.#write(stdout, Buffer.from(String(bytes)));
        return 0;
      }
      case "say":
        await this.#write(stdout, Buffer.from(`out ${arg}`));
        await this.#write(stderr, Buffer.from(`err ${arg}`));
        return 0;
      case "exit":
        return Number(arg);
      case "send":
        for (let left = Number(arg); left > 0; left -= PIECE) {
          await this.#write(stdout, Buffer.alloc(Math.min(PIECE, left), 0x61));
        }
        return 0;
      case "sizes": {
        let left = Number(arg);
        for await (const { width, height } of io.resize) {
          await this.#write(stdout, Buffer.from(`${width}x${height} `));
          if (--left === 0) break;
        }
        return 0;
      }
      case "idle":
        await Promise.race([untilAborted(io.signal), sleep(Number(arg))]);
        return 0;
      case "stall": // reads nothing, ever
        await untilAborted(io.signal);
        return 0;
      default:
        throw new PodvmError("not_found", `no command ${name}`);
    }
  }

  async #write(sink: { write(data: Buffer): Promise<void> } | undefined, data: Buffer): Promise<void> {
    await sink?.write(data);
    this.written += data.length;
  }

  async #counted<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    this.running += 1;
    try {
      return await work();
    } finally {
      this.running -= 1;
      if (signal.aborted) this.aborted.push(String(signal.reason));
    }
  }
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** Listens; closed at the test's end, which must leave no session. */
export async function echoServer(
  t: ExecutionContext,
  options: Partial<StreamingServerOptions> = {},
): Promise<{ server: StreamingServer; backend: EchoBackend }> {
  const backend = new EchoBackend();
  const server = createStreamingServer({ backend, logger: silentLogger, ...options });
  await server.listen();
  t.teardown(async () => {
    await server.close();
    const { sessions, waiting } = server.load;
    if (sessions + waiting + backend.running > 0) {
      throw new Error(`left behind: ${sessions} sessions, ${waiting} tokens, ${backend.running} commands`);
    }
  });
  return { server, backend };
}

/** An exec request for a command of the backend. */
export function command(words: string, more: Partial<ExecRequest> = {}): ExecRequest {
  const streams = { stdin: false, stdout: true, stderr: true };
  return { kind: "exec", containerId: "c1", command: words.split(" "), tty: false, ...streams, ...more };
}
