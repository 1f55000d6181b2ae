/**
 * Carries one container's output from the agent into its log, without losing or doubling a byte, whatever dies in between
 * (docs/container-logs.md): read chunks → append whole lines → record the position → acknowledge. The unfinished end of a line is
 * neither written nor acknowledged: after a break the agent sends it again.
 */
import { status } from "@grpc/grpc-js";
import type { OutputChunk } from "../gen/agent/v1/agent.js";
import { withDeadline } from "../host/deadline.js";
import { hasCode, messageOf, PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import type { Agent } from "./client.js";
import { grpcCode } from "./errors.js";
import { DEFAULT_MAX_LINE, LineBuffer, LineFramer, type StreamName, streamName } from "./log-lines.js";
import { type LogFs, LogWriter, type Offsets } from "./log-writer.js";
import type { OutputStream } from "./streams.js";

/** Gives the connected agent; an `AgentSession` does. Rejects with cancelled when there will be none any more. */
export interface OutputSource {
  agent(deadlineMs: number): Promise<Pick<Agent, "output">>;
}

export interface OutputPumpOptions {
  containerId: string;
  source: OutputSource;
  /** Absolute; from kubelet, below the pod's log folder. Absent: output is read, acknowledged, and kept by nobody but subscribers. */
  logPath?: string;
  /** The record that a restart goes on from. Whoever removes the container removes it. */
  positionPath: string;
  logger: Logger;
  /** Bytes of content of one log line, 64 to 32768. Default 16384. */
  maxLine?: number;
  fs?: LogFs;
}

/** Live output, for attach. Called in order, each byte once, before it is in the log. Must not block, and not change the bytes. */
export interface OutputListener {
  data(stream: StreamName, bytes: Buffer): void;
  eof?(stream: StreamName): void;
  /** Asked after each batch: the pump, and with it the container, waits for what is answered. Must settle some time, and not reject. */
  ready?(): Promise<void> | undefined;
}

const BATCH_BYTES = 1 << 20;
const AGENT_WAIT_MS = 60_000;
const FIRST_BACKOFF_MS = 20;
const MAX_BACKOFF_MS = 2000;
/** For the agent to take the last acknowledgement and end the call. */
const FAREWELL_MS = 2000;

export class OutputPump {
  readonly #options: OutputPumpOptions;
  readonly #logger: Logger;
  readonly #writer: LogWriter;
  readonly #lines = new LineBuffer();
  readonly #framers: Record<StreamName, LineFramer>;
  /** Offset up to which subscribers have seen a stream. */
  readonly #seen: Record<StreamName, number>;
  readonly #seenEof: Record<StreamName, boolean>;
  readonly #listeners = new Set<OutputListener>();
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  #drainedWaiters = new Set<() => void>();
  #complete: boolean;
  #over = false;
  #stream: OutputStream | undefined;
  #closing: Promise<void> | undefined;

  private constructor(options: OutputPumpOptions, writer: LogWriter) {
    this.#options = options;
    this.#logger = options.logger;
    this.#writer = writer;
    const { stdout, stderr, stdoutEof, stderrEof } = writer.offsets;
    const maxLine = options.maxLine ?? DEFAULT_MAX_LINE;
    this.#framers = {
      stdout: new LineFramer("stdout", stdout, stdoutEof, maxLine),
      stderr: new LineFramer("stderr", stderr, stderrEof, maxLine),
    };
    this.#seen = { stdout, stderr };
    this.#seenEof = { stdout: stdoutEof, stderr: stderrEof };
    this.#complete = stdoutEof && stderrEof;
    this.#running = this.#run();
  }

  /**
   * Opens log and record (recovering from a crash), then reads in the background until both streams have ended. Rejects with
   * failed_precondition where the log's path is no regular file.
   */
  static async open(options: OutputPumpOptions): Promise<OutputPump> {
    const { maxLine = DEFAULT_MAX_LINE } = options;
    if (!Number.isInteger(maxLine) || maxLine < 64 || maxLine > 32 * 1024) {
      throw new PodvmError("invalid_argument", `longest log line ${maxLine}: wanted 64 to 32768 bytes`);
    }
    return new OutputPump(options, await LogWriter.open(options));
  }

  /** Both streams have ended and are in the log. */
  get complete(): boolean {
    return this.#complete;
  }

  /** True when both streams have ended and are in the log, false when not within `deadlineMs` milliseconds, or never any more. */
  drained(deadlineMs: number): Promise<boolean> {
    if (this.#complete || this.#over) return Promise.resolve(this.#complete);
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#drainedWaiters.delete(done);
        resolve(this.#complete);
      };
      const timer = setTimeout(done, deadlineMs);
      this.#drainedWaiters.add(done);
    });
  }

  /** Answers the way to unsubscribe. What came before is not repeated; the end of an ended stream is told. */
  subscribe(listener: OutputListener): () => void {
    this.#listeners.add(listener);
    for (const name of ["stdout", "stderr"] as const) if (this.#seenEof[name]) listener.eof?.(name);
    return () => this.#listeners.delete(listener);
  }

  /** For ReopenContainerLog: lines from now on go to what is now (or is then made) at the log's path. */
  reopen(): Promise<void> {
    if (this.#closing) return Promise.reject(new PodvmError("failed_precondition", "the container's log is closed"));
    return this.#writer.reopen();
  }

  /** Lets go of everything; a later `open` goes on from here. The container's output stays in the agent's spool. */
  close(): Promise<void> {
    this.#closing ??= this.#shutDown(async () => {});
    return this.#closing;
  }

  /**
   * There will be no more output (the VM is gone): what has arrived is written, an unfinished line as a partial one, and both
   * streams count as ended. Gives up after `deadlineMs` milliseconds when the log cannot be written.
   */
  end(deadlineMs: number): Promise<void> {
    this.#closing ??= this.#shutDown(async () => {
      if (this.#complete) return;
      const { stdout, stderr } = this.#framers;
      stdout.flush(this.#lines);
      stderr.flush(this.#lines);
      const giveUp = new AbortController();
      const timer = setTimeout(
        () => giveUp.abort(new PodvmError("deadline_exceeded", `the log could not be written within ${deadlineMs} ms`)),
        deadlineMs,
      );
      try {
        await this.#writer.commit(
          this.#lines.view,
          { ...this.#offsets(), stdoutEof: true, stderrEof: true },
          giveUp.signal,
        );
        this.#complete = true;
        this.#tellEof("stdout");
        this.#tellEof("stderr");
      } catch (err) {
        this.#logger.error("the last lines of a container's log are lost", { err });
      } finally {
        clearTimeout(timer);
      }
    });
    return this.#closing;
  }

  async #shutDown(last: () => Promise<void>): Promise<void> {
    this.#stop.abort(new PodvmError("cancelled", "the output pump was closed"));
    // After the end the agent still has to take the last acknowledgement, which cancelling could overtake.
    if (!this.#complete) this.#stream?.cancel();
    await this.#running;
    await last();
    this.#settle();
    this.#listeners.clear();
    await this.#writer.close();
  }

  async #run(): Promise<void> {
    let backoff = FIRST_BACKOFF_MS;
    while (!this.#complete && !this.#stop.signal.aborted) {
      let agent: Pick<Agent, "output">;
      try {
        agent = await this.#agent();
      } catch (err) {
        if (hasCode(err, "cancelled")) break; // the session was closed
        if (hasCode(err, "failed_precondition")) {
          this.#logger.error("the guest is lost to its pod: the log ends here", { err });
          break;
        }
        await this.#pause(MAX_BACKOFF_MS);
        continue;
      }
      try {
        await this.#read(agent, () => {
          backoff = FIRST_BACKOFF_MS;
        });
      } catch (err) {
        if (this.#stop.signal.aborted || this.#isFinal(err)) break;
        this.#logger.debug("the container's output broke off: asking again", { error: messageOf(err) });
        await this.#pause(backoff);
        backoff = Math.min(backoff * 2, MAX_BACKOFF_MS);
      }
    }
    this.#over = true;
    this.#settle();
  }

  /** The source's agent, but not beyond `close`. */
  #agent(): Promise<Pick<Agent, "output">> {
    const { signal } = this.#stop;
    return new Promise((resolve, reject) => {
      const onAbort = () => reject(signal.reason);
      signal.addEventListener("abort", onAbort, { once: true });
      this.#options.source
        .agent(AGENT_WAIT_MS)
        .then(resolve, reject)
        .finally(() => signal.removeEventListener("abort", onAbort));
    });
  }

  /** True when asking this agent again is of no use. */
  #isFinal(err: unknown): boolean {
    if (grpcCode(err) === status.NOT_FOUND) {
      this.#logger.debug("the container is gone from the guest: no more output", { error: messageOf(err) });
      return true;
    }
    if (grpcCode(err) === status.OUT_OF_RANGE) {
      this.#logger.error("the guest does not have the output that it should have: the log ends here", { err });
      return true;
    }
    return false;
  }

  async #read(agent: Pick<Agent, "output">, onProgress: () => void): Promise<void> {
    const { stdout, stderr } = this.#framers;
    const stream = agent.output(this.#options.containerId, BigInt(stdout.covered), BigInt(stderr.covered));
    this.#stream = stream;
    const begun = { stdout: false, stderr: false };
    try {
      while (!this.#stop.signal.aborted) {
        const chunks = await stream.next(BATCH_BYTES);
        if (!chunks) throw new PodvmError("unavailable", "agent: Output ended before the container's output did");
        try {
          for (const chunk of chunks) this.#take(chunk, begun);
        } finally {
          // Also when a chunk was wrong: the good ones before it have moved the offsets.
          await this.#commit(stream);
        }
        onProgress();
        await this.#listenersReady();
        if (!stdout.eof || !stderr.eof) continue;
        this.#complete = true;
        this.#settle();
        await withDeadline(stream.next(1), FAREWELL_MS, "the end of Output").catch(() => {});
        return;
      }
    } finally {
      this.#stream = undefined;
      stream.cancel();
    }
  }

  #take(chunk: OutputChunk, begun: Record<StreamName, boolean>): void {
    const name = streamName(chunk.stream);
    const framer = this.#framers[name];
    const offset = Number(chunk.offset);
    if (!begun[name] && offset > framer.next && !framer.eof) {
      if (this.#options.logPath !== undefined) {
        const bytes = offset - framer.next;
        this.#logger.warn("the guest no longer has a part of the container's output", { stream: name, bytes });
      }
      framer.skipTo(offset, this.#lines);
    }
    begun[name] = true;
    framer.push(chunk, this.#lines);
    if (chunk.eof) this.#tellEof(name);
    else this.#tell(name, offset, chunk.data);
  }

  async #commit(stream: OutputStream): Promise<void> {
    const offsets = this.#offsets();
    const last = this.#writer.offsets;
    const moved =
      offsets.stdout !== last.stdout ||
      offsets.stderr !== last.stderr ||
      offsets.stdoutEof !== last.stdoutEof ||
      offsets.stderrEof !== last.stderrEof;
    if (moved) await this.#writer.commit(this.#lines.view, offsets, this.#stop.signal);
    this.#lines.clear(); // not after a failure: `end` still writes them
    // An end that was recorded before a restart is sent again, and wants its acknowledgement again.
    if (moved || offsets.stdoutEof || offsets.stderrEof) {
      stream.acknowledge(BigInt(offsets.stdout), BigInt(offsets.stderr));
    }
  }

  #offsets(): Offsets {
    const { stdout, stderr } = this.#framers;
    return { stdout: stdout.covered, stderr: stderr.covered, stdoutEof: stdout.eof, stderrEof: stderr.eof };
  }

  #tell(name: StreamName, offset: number, data: Buffer): void {
    const fresh = data.subarray(Math.max(0, this.#seen[name] - offset));
    if (fresh.length === 0) return;
    this.#seen[name] = offset + data.length;
    for (const listener of [...this.#listeners]) this.#guard(() => listener.data(name, fresh));
  }

  #tellEof(name: StreamName): void {
    if (this.#seenEof[name]) return;
    this.#seenEof[name] = true;
    for (const listener of [...this.#listeners]) this.#guard(() => listener.eof?.(name));
  }

  async #listenersReady(): Promise<void> {
    const waits = [...this.#listeners].map((listener) => listener.ready?.()).filter((wait) => wait !== undefined);
    if (waits.length === 0) return;
    const { signal } = this.#stop;
    await new Promise<void>((resolve) => {
      const done = () => {
        signal.removeEventListener("abort", done);
        resolve();
      };
      signal.addEventListener("abort", done, { once: true });
      if (signal.aborted) done();
      void Promise.allSettled(waits).then(done);
    });
  }

  /** A listener that throws must not stop the log. */
  #guard(call: () => void): void {
    try {
      call();
    } catch (err) {
      this.#logger.error("a listener to a container's output failed", { err });
    }
  }

  #settle(): void {
    for (const waiter of [...this.#drainedWaiters]) waiter();
  }

  #pause(ms: number): Promise<void> {
    const { signal } = this.#stop;
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener("abort", done, { once: true });
      if (signal.aborted) done();
    });
  }
}
