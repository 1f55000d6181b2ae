/**
 * The files of one container's log: the log itself, and its position record. `commit` writes lines, then the record of them; only
 * then may they be acknowledged. A write that fails (disk full, mostly) is tried again until it succeeds: a log never loses a line.
 *
 * Recovery assumes: the record names the file that was written last, and its length then; kubelet rotates by renaming the log to
 * a longer name in the same folder and then asking for ReopenContainerLog, and may have died in between just as we did.
 */
import { constants } from "node:fs";
import * as nodeFs from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { errno, messageOf, PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import {
  decodePosition,
  encodePosition,
  type FileIdentity,
  type LogPosition,
  SLOT_BYTES,
  sameFile,
} from "./log-position.js";

/** The part of node:fs/promises that is used; tests put a file system in between that fails when they want it to. */
export type LogFs = Pick<typeof nodeFs, "open" | "lstat" | "readdir" | "mkdir">;

export interface LogWriterOptions {
  /** Absent: output is only counted. Its folder is made where it is missing. */
  logPath?: string;
  positionPath: string;
  logger: Logger;
  fs?: LogFs;
}

/** What `commit` records beside the lines. */
export type Offsets = Pick<LogPosition, "stdout" | "stderr" | "stdoutEof" | "stderrEof">;

interface OpenLog {
  handle: nodeFs.FileHandle;
  file: FileIdentity;
  size: number;
}

interface Waiter {
  resolve(): void;
  reject(err: unknown): void;
}

const { O_WRONLY, O_RDWR, O_APPEND, O_CREAT, O_NOFOLLOW, O_NONBLOCK } = constants;
const LOG_MODE = 0o640;
const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 5000;
/** Rotated logs beside the current one; kubelet keeps five. */
const MAX_SIBLINGS = 10_000;

export class LogWriter {
  readonly #options: LogWriterOptions;
  readonly #fs: LogFs;
  readonly #record: nodeFs.FileHandle;
  #log: OpenLog | undefined;
  #offsets: Offsets;
  #number: number;
  /** The log may hold a part of a batch beyond its recorded size. */
  #dirty = false;
  #lock: Promise<void> = Promise.resolve();
  #reopens: Waiter[] = [];
  #wakeRetry: () => void = () => {};

  private constructor(
    options: LogWriterOptions,
    record: nodeFs.FileHandle,
    log: OpenLog | undefined,
    offsets: Offsets,
    number: number,
  ) {
    this.#options = options;
    this.#fs = options.fs ?? nodeFs;
    this.#record = record;
    this.#log = log;
    this.#offsets = offsets;
    this.#number = number;
  }

  /**
   * Opens both files, after cutting off what an interrupted writer had written but not recorded. Rejects with failed_precondition where
   * the log's path is no regular file.
   */
  static async open(options: LogWriterOptions): Promise<LogWriter> {
    const { fs = nodeFs, positionPath, logPath, logger } = options;
    await fs.mkdir(dirname(positionPath), { recursive: true, mode: 0o700 });
    const record = await fs.open(positionPath, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
    let log: OpenLog | undefined;
    try {
      const found = await readRecord(record, logger);
      const offsets = found?.position ?? { stdout: 0, stderr: 0, stdoutEof: false, stderrEof: false };
      if (logPath !== undefined) {
        if (found?.position.log) await cutUnrecorded(fs, logPath, found.position.log, logger);
        log = await openLog(fs, logPath);
      }
      const number = found ? found.number + 1 : 0;
      const writer = new LogWriter(options, record, log, offsets, number);
      await writer.#writeRecord(offsets, log);
      return writer;
    } catch (err) {
      await record.close();
      await log?.handle.close();
      throw err;
    }
  }

  /** What was recorded last. */
  get offsets(): Offsets {
    return this.#offsets;
  }

  /**
   * Appends whole lines and records them. Retries for as long as it takes; rejects with the signal's reason when that aborts, and what
   * was half written is then cut off by the next `open`.
   */
  commit(lines: Buffer, offsets: Offsets, signal: AbortSignal): Promise<void> {
    return this.#exclusive(async () => {
      let done = 0;
      let retryMs = FIRST_RETRY_MS;
      let warned = false;
      for (;;) {
        try {
          if (this.#reopens.length > 0 && (await this.#serveReopens())) done = 0;
          if (done === 0 && this.#dirty && this.#log) await this.#log.handle.truncate(this.#log.size);
          this.#dirty = lines.length > 0;
          const size = this.#log ? this.#log.size + lines.length : 0;
          while (this.#log && done < lines.length) {
            done += (await this.#log.handle.write(lines, done, lines.length - done, null)).bytesWritten;
          }
          await this.#writeRecord(offsets, this.#log && { ...this.#log, size });
          if (this.#log) this.#log.size = size;
          this.#dirty = false;
          if (warned)
            this.#options.logger.info("the container's log is written again", { path: this.#options.logPath });
          return;
        } catch (err) {
          if (signal.aborted) throw signal.reason;
          if (!warned) {
            const fields = { path: this.#options.logPath, error: messageOf(err) };
            this.#options.logger.warn("cannot write the container's log: its output waits until this works", fields);
          }
          warned = true;
        }
        await this.#retryPause(retryMs, signal);
        if (signal.aborted) throw signal.reason;
        retryMs = Math.min(retryMs * 2, MAX_RETRY_MS);
      }
    });
  }

  /**
   * Opens the log's path anew: lines committed from now on go there, a batch that is being written goes wholly to the one or the
   * other. When it rejects, the log goes on in the old file.
   */
  reopen(): Promise<void> {
    if (this.#options.logPath === undefined) {
      return Promise.reject(
        new PodvmError("failed_precondition", "the container has no log path: there is nothing to reopen"),
      );
    }
    return new Promise<void>((resolve, reject) => {
      this.#reopens.push({ resolve, reject });
      this.#wakeRetry();
      // Does nothing where a commit in progress has seen to it.
      this.#exclusive(() => this.#serveReopens()).catch(() => {});
    });
  }

  async close(): Promise<void> {
    await this.#exclusive(async () => {
      await this.#log?.handle.close();
      this.#log = undefined;
      await this.#record.close();
    });
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#lock.then(work);
    this.#lock = result.then(
      () => {},
      () => {},
    );
    return result;
  }

  /** True when the part of a batch that the old file held was taken back. */
  async #serveReopens(): Promise<boolean> {
    const waiters = this.#reopens.splice(0);
    const { logPath } = this.#options;
    if (waiters.length === 0) return false;
    let cut = false;
    try {
      const old = this.#log;
      if (!old || logPath === undefined) throw new PodvmError("failed_precondition", "the container's log is closed");
      if (this.#dirty) {
        await old.handle.truncate(old.size);
        this.#dirty = false;
        cut = true;
      }
      const next = await openLog(this.#fs, logPath);
      try {
        await this.#writeRecord(this.#offsets, next);
      } catch (err) {
        await next.handle.close();
        throw err;
      }
      this.#log = next;
      await old.handle.close().catch((err) => this.#options.logger.warn("closing a rotated log", { err }));
      for (const waiter of waiters) waiter.resolve();
    } catch (err) {
      for (const waiter of waiters) waiter.reject(err);
    }
    return cut;
  }

  async #writeRecord(offsets: Offsets, log: Pick<OpenLog, "file" | "size"> | undefined): Promise<void> {
    const position: LogPosition = { ...pick(offsets), ...(log ? { log: { file: log.file, size: log.size } } : {}) };
    const slot = encodePosition(position, this.#number);
    const { bytesWritten } = await this.#record.write(slot, 0, SLOT_BYTES, (this.#number % 2) * SLOT_BYTES);
    if (bytesWritten !== SLOT_BYTES) throw new Error(`position record: wrote ${bytesWritten} of ${SLOT_BYTES} bytes`);
    this.#number += 1;
    this.#offsets = pick(offsets);
  }

  #retryPause(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", done);
        this.#wakeRetry = () => {};
        resolve();
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener("abort", done, { once: true });
      this.#wakeRetry = done;
      if (signal.aborted || this.#reopens.length > 0) done();
    });
  }
}

function pick({ stdout, stderr, stdoutEof, stderrEof }: Offsets): Offsets {
  return { stdout, stderr, stdoutEof, stderrEof };
}

async function readRecord(record: nodeFs.FileHandle, logger: Logger): Promise<ReturnType<typeof decodePosition>> {
  const bytes = Buffer.alloc(2 * SLOT_BYTES);
  const { bytesRead } = await record.read(bytes, 0, bytes.length, 0);
  try {
    return decodePosition(bytes.subarray(0, bytesRead));
  } catch (err) {
    logger.error("the log goes on from what the guest still has; a few lines may be there twice", { err });
    return undefined;
  }
}

/** Opens for appending, made where it is missing. Follows no link, and takes nothing but a regular file. */
async function openLog(fs: LogFs, path: string): Promise<OpenLog> {
  await fs.mkdir(dirname(path), { recursive: true, mode: 0o755 });
  let handle: nodeFs.FileHandle;
  try {
    // O_NONBLOCK: opening a FIFO must not wait for its reader.
    handle = await fs.open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK, LOG_MODE);
  } catch (err) {
    const kind = { ELOOP: "a symbolic link", EISDIR: "a folder", ENXIO: "a FIFO or socket" }[errno(err) ?? ""];
    if (kind) throw notRegular(path, kind);
    throw new PodvmError("internal", `cannot open the log ${path}: ${messageOf(err)}`, { cause: err });
  }
  try {
    const stat = await handle.stat({ bigint: true });
    if (!stat.isFile()) throw notRegular(path, "a device or FIFO");
    return { handle, file: identityOf(stat), size: Number(stat.size) };
  } catch (err) {
    await handle.close();
    throw err;
  }
}

function notRegular(path: string, found: string): PodvmError {
  return new PodvmError("failed_precondition", `the log path ${path} is ${found}, wanted a regular file: remove it`);
}

function identityOf(stat: { dev: bigint; ino: bigint; birthtimeNs: bigint }): FileIdentity {
  return { dev: stat.dev, ino: stat.ino, birthtimeNs: stat.birthtimeNs };
}

/** Cuts the file of the record, under the log's name or one that rotation gave it, to the length of the record. */
async function cutUnrecorded(
  fs: LogFs,
  path: string,
  recorded: NonNullable<LogPosition["log"]>,
  logger: Logger,
): Promise<void> {
  for await (const candidate of candidates(fs, path)) {
    try {
      const seen = await fs.lstat(candidate, { bigint: true });
      if (!seen.isFile() || !sameFile(identityOf(seen), recorded.file)) continue;
      if (seen.size <= BigInt(recorded.size)) return;
      const handle = await fs.open(candidate, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
      try {
        // Between lstat and open another file may have taken the name.
        const stat = await handle.stat({ bigint: true });
        if (!sameFile(identityOf(stat), recorded.file)) continue;
        await handle.truncate(recorded.size);
        const bytes = Number(stat.size) - recorded.size;
        logger.info("cut lines off the log that were not yet recorded; they come again", { path: candidate, bytes });
      } finally {
        await handle.close();
      }
      return;
    } catch (err) {
      if (errno(err) !== "ENOENT") throw err;
    }
  }
  logger.debug("the log file of the position record is gone (rotated away): going on with the current one", { path });
}

async function* candidates(fs: LogFs, path: string): AsyncGenerator<string> {
  yield path;
  const folder = dirname(path);
  const name = basename(path);
  let names: string[];
  try {
    names = await fs.readdir(folder);
  } catch (err) {
    if (errno(err) === "ENOENT") return;
    throw err;
  }
  const rotated = names.filter((other) => other !== name && other.startsWith(name)).sort();
  // The latest rotation sorts last: kubelet appends the time.
  for (const other of rotated.reverse().slice(0, MAX_SIBLINGS)) yield join(folder, other);
}
