import { type SpawnOptions, spawn } from "node:child_process";
import { PodvmError } from "./errors.js";

export interface RunOptions {
  /** Milliseconds until the process is killed (SIGKILL) and the call rejects. Default 30 000. */
  deadlineMs?: number;
  /** Written to standard input, which is then closed. */
  input?: string | Uint8Array;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Bytes kept per stream; what comes after is dropped. Default 1 MiB. */
  maxOutput?: number;
  /** Exit codes that are no error. Default [0]. */
  okCodes?: number[];
  signal?: AbortSignal;
}

export interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * Runs a program (no shell), waits for it, and answers its output. Rejects with a PodvmError that holds the command and the
 * end of its stderr: not_found where there is no such program, deadline_exceeded, cancelled, else internal.
 */
export function run(argv: readonly [string, ...string[]], options: RunOptions = {}): Promise<RunResult> {
  const { deadlineMs = 30_000, maxOutput = 1 << 20, okCodes = [0] } = options;
  const [file, ...args] = argv;
  const shown = argv.join(" ").slice(0, 300);
  return new Promise((resolve, reject) => {
    const spawnOptions: SpawnOptions = { stdio: ["pipe", "pipe", "pipe"], env: options.env ?? process.env };
    if (options.cwd !== undefined) spawnOptions.cwd = options.cwd;
    const child = spawn(file, args, spawnOptions);
    let killedFor: PodvmError | undefined;
    const kill = (why: PodvmError) => {
      killedFor ??= why;
      child.kill("SIGKILL");
    };
    const timer = setTimeout(
      () => kill(new PodvmError("deadline_exceeded", `${shown}: killed after ${deadlineMs} ms`)),
      deadlineMs,
    );
    const onAbort = () => kill(new PodvmError("cancelled", `${shown}: cancelled`));
    options.signal?.addEventListener("abort", onAbort, { once: true });
    if (options.signal?.aborted) onAbort();

    const collect = (stream: NodeJS.ReadableStream | null) => {
      const chunks: Buffer[] = [];
      let size = 0;
      stream?.on("data", (chunk: Buffer) => {
        if (size < maxOutput) chunks.push(chunk.subarray(0, maxOutput - size));
        size += chunk.length;
      });
      return () => Buffer.concat(chunks).toString("utf8");
    };
    const stdout = collect(child.stdout);
    const stderr = collect(child.stderr);
    child.stdin?.on("error", () => {}); // it may exit without reading: its exit code tells
    child.stdin?.end(options.input ?? "");

    const done = () => {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", onAbort);
    };
    child.once("error", (err: NodeJS.ErrnoException) => {
      done();
      const code = err.code === "ENOENT" ? "not_found" : "internal";
      reject(new PodvmError(code, `cannot run ${file}: ${err.message}`, { cause: err }));
    });
    child.once("close", (code, signal) => {
      done();
      if (killedFor) return reject(killedFor);
      const result = { code: code ?? -1, stdout: stdout(), stderr: stderr() };
      if (code !== null && okCodes.includes(code)) return resolve(result);
      const how = signal ? `ended by ${signal}` : `exit code ${code}`;
      const said = (result.stderr.trim() || result.stdout.trim()).slice(-2000);
      reject(new PodvmError("internal", `${shown}: ${how}${said ? `: ${said}` : ""}`));
    });
  });
}
