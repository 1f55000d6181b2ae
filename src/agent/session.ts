/**
 * The link to one pod's agent for as long as its VM lives. Connections break (the VMM takes a new client, a guest is paused for too long,
 * the keepalive gives up): the session makes the next one, checks that it leads to the same agent, and goes on with events and logs
 * where they ended.
 */
import { EventEmitter } from "node:events";
import type { Event, HelloResponse } from "../gen/agent/v1/agent.js";
import { sleep } from "../host/deadline.js";
import { messageOf, PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import type { LinkAddress } from "../vmm/vmm.js";
import type { Agent } from "./client.js";
import { GuestLog } from "./guest-log.js";
import { connectAgent } from "./link.js";

/** Revision of agent.v1 that this server was built with, and the oldest that it still talks to. */
export const PROTOCOL = 1;
const OLDEST_PROTOCOL = 1;

export interface AgentSessionOptions {
  address: LinkAddress;
  /** Another pod's agent is refused. One that is not configured yet is accepted until it has once said this id. */
  podId: string;
  /** From the pod's document where it is known: another agent is refused. */
  instance?: string;
  /** Events up to this sequence number are known. Default 0: all that the agent still has come again. */
  afterSeq?: bigint;
  serverVersion: string;
  logger: Logger;
  /** Milliseconds for one attempt to connect. Default 60 s. */
  connectMs?: number;
}

interface SessionEvents {
  /** In order, each once. */
  event: [event: Event];
  /** A connection after the first is up: the pod may want to compare its containers with the agent's list. */
  reconnected: [agent: Agent];
  /** The agent behind the link is not this pod's: the session has ended itself. */
  failed: [err: PodvmError];
}

const FIRST_BACKOFF_MS = 50;
const MAX_BACKOFF_MS = 2000;
/** Longest wait after a connection that had been up; a guest that breaks one after the other gets five a second. */
const MAX_BROKEN_MS = 200;
/** A connection that lasted this long was a good one: the next attempt comes soon again. */
const GOOD_MS = 5000;

/** Connects at once and keeps connected until `close`. */
export class AgentSession extends EventEmitter<SessionEvents> {
  readonly #options: AgentSessionOptions;
  readonly #logger: Logger;
  readonly #abort = new AbortController();
  readonly #guestLog: GuestLog;
  readonly #ended: Promise<void>;
  #agent: Agent | undefined;
  #hello: HelloResponse | undefined;
  #instance: string | undefined;
  #configured = false;
  #lastSeq: bigint;
  #lastError: PodvmError | undefined;
  #failure: PodvmError | undefined;
  #waiters = new Set<() => void>();

  constructor(options: AgentSessionOptions) {
    super();
    this.#options = options;
    this.#logger = options.logger;
    this.#instance = options.instance;
    this.#lastSeq = options.afterSeq ?? 0n;
    this.#guestLog = new GuestLog(options.logger);
    this.#ended = this.#run();
  }

  /** What the agent said of itself; undefined before the first connection. */
  get hello(): HelloResponse | undefined {
    return this.#hello;
  }

  /** Sequence number of the last event that was emitted. */
  get lastSeq(): bigint {
    return this.#lastSeq;
  }

  get closed(): boolean {
    return this.#abort.signal.aborted;
  }

  /** Aborted by `close` and by a failure. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /**
   * A connected agent. Rejects with unavailable (naming the last failure) when there is none within `deadlineMs` milliseconds, with
   * cancelled after `close`, with failed_precondition when the agent proved to be another one.
   */
  async agent(deadlineMs: number): Promise<Agent> {
    const until = Date.now() + deadlineMs;
    for (;;) {
      if (this.#failure) throw this.#failure;
      if (this.closed)
        throw new PodvmError("cancelled", `the link to the agent of pod ${this.#options.podId} was closed`);
      if (this.#agent) return this.#agent;
      const left = until - Date.now();
      if (left <= 0) {
        const why = this.#lastError ? `: ${this.#lastError.message}` : "";
        const message = `no connection to the agent of pod ${this.#options.podId} within ${deadlineMs} ms${why}`;
        throw new PodvmError("unavailable", message, this.#lastError ? { cause: this.#lastError } : undefined);
      }
      await this.#change(left);
    }
  }

  /** Ends the connection and all waiting for one. The agent goes on without. Resolves when nothing of the session runs any more. */
  async close(): Promise<void> {
    this.#abort.abort(new PodvmError("cancelled", `the link to the agent of pod ${this.#options.podId} was closed`));
    this.#agent?.close();
    this.#agent = undefined;
    this.#wake();
    await this.#ended;
  }

  async #run(): Promise<void> {
    let backoff = FIRST_BACKOFF_MS;
    let first = true;
    while (!this.closed) {
      const started = Date.now();
      let wasUp = false;
      try {
        await this.#connection(first, () => {
          first = false;
          wasUp = true;
        });
      } catch (err) {
        this.#lastError = PodvmError.from(err);
        if (this.closed) return;
        if (this.#lastError.code === "failed_precondition") return this.#fail(this.#lastError);
        this.#logger.debug("no connection to the agent", { error: messageOf(err) });
      }
      const longest = wasUp ? MAX_BROKEN_MS : MAX_BACKOFF_MS;
      const good = wasUp && Date.now() - started > GOOD_MS;
      backoff = good ? FIRST_BACKOFF_MS : Math.min(backoff * 2, longest);
      if (!this.closed) await this.#pause(backoff * (0.5 + Math.random() / 2));
    }
  }

  /** One connection, from dialling to its end. */
  async #connection(first: boolean, onUp: () => void): Promise<void> {
    const { address, connectMs = 60_000, serverVersion } = this.#options;
    const agent = await connectAgent(address, {
      deadlineMs: connectMs,
      logger: this.#logger,
      signal: this.#abort.signal,
    });
    try {
      this.#check(await agent.hello({ serverVersion, protocol: PROTOCOL }, { signal: this.#abort.signal }));
      if (this.closed) return;
      this.#agent = agent;
      this.#lastError = undefined;
      onUp();
      this.#logger.debug(first ? "the agent answers" : "the agent answers again", { kernel: this.#hello?.kernel });
      this.#wake();
      void this.#readLogs(agent);
      void this.#readEvents(agent);
      if (!first) this.#tell("reconnected", agent);
      await agent.closed;
      this.#lastError = new PodvmError("unavailable", "the connection to the agent broke");
    } finally {
      this.#agent = undefined;
      agent.close();
    }
  }

  #check(hello: HelloResponse): void {
    const { podId } = this.#options;
    const refuse = (what: string) => {
      throw new PodvmError(
        "failed_precondition",
        `the agent behind ${this.#options.address.path} is not pod ${podId}'s: ${what}`,
      );
    };
    if (hello.protocol < OLDEST_PROTOCOL) {
      refuse(`it speaks revision ${hello.protocol} of agent.v1, at least ${OLDEST_PROTOCOL} is wanted`);
    }
    if (this.#instance !== undefined && hello.instance !== this.#instance) refuse("it is another instance than before");
    if (hello.podId !== "" && hello.podId !== podId) refuse("it was configured for another pod");
    if (hello.podId === "" && this.#configured) refuse("it has forgotten its pod");
    this.#instance = hello.instance;
    this.#configured ||= hello.podId !== "";
    this.#hello = hello;
  }

  async #readEvents(agent: Agent): Promise<void> {
    while (this.#agent === agent) {
      try {
        let first = true;
        for await (const event of agent.events(this.#lastSeq)) {
          // agent.proto: only the first can be. More of them would be a flood of lists and log lines.
          if (event.lost && !first) throw new PodvmError("internal", "agent: Events: lost ones amid the stream");
          first = false;
          this.#take(event);
        }
        throw new PodvmError("internal", "agent: Events: the stream ended");
      } catch (err) {
        if (this.#agent !== agent) return;
        this.#logger.warn("the agent's events broke off: asking again", { error: messageOf(err) });
        await this.#pause(MAX_BACKOFF_MS);
      }
    }
  }

  #take(event: Event): void {
    if (event.lost) {
      this.#logger.warn("the agent has dropped events before they were read", { firstKept: event.lost.firstSeq });
      if (event.lost.firstSeq > this.#lastSeq) this.#lastSeq = event.lost.firstSeq - 1n;
      this.#tell("event", event);
      return;
    }
    if (event.seq <= this.#lastSeq) return;
    if (event.seq !== this.#lastSeq + 1n) {
      throw new PodvmError("internal", `agent: Events: wanted number ${this.#lastSeq + 1n}, found ${event.seq}`);
    }
    this.#lastSeq = event.seq;
    this.#tell("event", event);
  }

  async #readLogs(agent: Agent): Promise<void> {
    while (this.#agent === agent) {
      try {
        for await (const record of agent.logs(this.#guestLog.lastSeq)) this.#guestLog.take(record);
      } catch (err) {
        if (this.#agent === agent) this.#logger.debug("the agent's log broke off", { error: messageOf(err) });
      }
      if (this.#agent === agent) await this.#pause(MAX_BACKOFF_MS);
    }
  }

  /** A listener that throws must not end the session. */
  #tell<Name extends keyof SessionEvents>(name: Name, ...args: SessionEvents[Name]): void {
    try {
      (this.emit as (name: Name, ...args: SessionEvents[Name]) => boolean).call(this, name, ...args);
    } catch (err) {
      this.#logger.error(`a listener to the session's "${name}" failed`, { err });
    }
  }

  #fail(err: PodvmError): void {
    this.#failure = err;
    this.#abort.abort(err);
    this.#logger.error("the link to the agent is given up", { err });
    this.#wake();
    this.#tell("failed", err);
  }

  #wake(): void {
    for (const waiter of [...this.#waiters]) waiter();
  }

  /** Until something about the connection changes, at most `ms` milliseconds. */
  #change(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#waiters.delete(done);
        resolve();
      };
      const timer = setTimeout(done, Math.min(ms, 2 ** 31 - 1));
      this.#waiters.add(done);
    });
  }

  /** Sleeps, but not beyond `close`. */
  async #pause(ms: number): Promise<void> {
    const { signal } = this.#abort;
    if (signal.aborted) return;
    let wake = () => {};
    const aborted = new Promise<void>((resolve) => {
      wake = resolve;
      signal.addEventListener("abort", wake, { once: true });
    });
    await Promise.race([sleep(ms), aborted]);
    signal.removeEventListener("abort", wake);
  }
}
