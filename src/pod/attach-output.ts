import type { StreamName } from "../agent/log-lines.js";
import type { OutputListener } from "../agent/output-pump.js";
import { PodvmError } from "../host/errors.js";
import { ByteQueue } from "../streaming/byte-queue.js";
import type { ByteSink } from "../streaming/session.js";

/** Held for a client that is behind; beyond it the container's output waits, as it would for a slow terminal. */
const MAX_HELD = 1 << 20;

/** One client's view of a container's output, between the pump, which must not be blocked for ever, and the client's connection. */
export class AttachOutput implements OutputListener {
  readonly #queues = new Map<StreamName, ByteQueue>();
  readonly #sending: Promise<void>[] = [];
  readonly #stallMs: number;
  #wake: (() => void) | undefined;

  /**
   * @param stallMs a client that takes nothing for so long while the container's output waits for it is given up: one stuck terminal must
   *   not stop a container
   */
  constructor(sinks: Partial<Record<StreamName, ByteSink | undefined>>, stallMs: number) {
    this.#stallMs = stallMs;
    for (const name of ["stdout", "stderr"] as const) {
      const sink = sinks[name];
      if (!sink) continue;
      const queue = new ByteQueue(() => this.#wake?.());
      this.#queues.set(name, queue);
      const sending = send(queue, sink);
      sending.catch(() => {}); // `done` tells it, where somebody waits
      this.#sending.push(sending);
    }
  }

  data(name: StreamName, bytes: Buffer): void {
    this.#queues.get(name)?.push(bytes);
  }

  eof(name: StreamName): void {
    this.#queues.get(name)?.end();
  }

  ready(): Promise<void> | undefined {
    return this.#held() > MAX_HELD ? this.#room() : undefined;
  }

  /** Resolves when all output that the client wanted has ended and was taken; rejects when the client is gone, or was given up. */
  async done(): Promise<void> {
    await Promise.all(this.#sending);
  }

  /** Nothing more is taken; `done` rejects with the reason where it has not settled. */
  stop(reason: Error): void {
    for (const queue of this.#queues.values()) queue.fail(reason);
    this.#wake?.();
  }

  #held(): number {
    let sum = 0;
    for (const queue of this.#queues.values()) sum += queue.cost;
    return sum;
  }

  async #room(): Promise<void> {
    while (this.#held() > MAX_HELD) {
      const moved = await new Promise<boolean>((resolve) => {
        const timer = setTimeout(() => resolve(false), this.#stallMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve(true);
        };
      });
      this.#wake = undefined;
      if (!moved) {
        const seconds = Math.round(this.#stallMs / 1000);
        this.stop(
          new PodvmError(
            "resource_exhausted",
            `the client has read nothing for ${seconds} s: attach ends, the container goes on`,
          ),
        );
      }
    }
  }
}

async function send(queue: ByteQueue, sink: ByteSink): Promise<void> {
  for await (const piece of queue) await sink.write(piece);
}
