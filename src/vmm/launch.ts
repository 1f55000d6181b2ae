/** Runs podvm-launch: see docs/launch.md for the document and for what the VMM finds. */
import { spawn } from "node:child_process";
import type { Socket } from "node:net";
import type { Readable } from "node:stream";
import * as v from "valibot";
import { PodvmError } from "../host/errors.js";
import { readFileIfThere } from "../host/files.js";
import type { ProcessRef } from "../host/process.js";

export interface LaunchDocument {
  version: 1;
  program: string;
  args: string[];
  env?: Record<string, string>;
  uid: number;
  gid: number;
  /** Existing folders; the VMM's pid is written to cgroup.procs of each. */
  cgroups: string[];
  /** Absent: an empty network namespace. */
  netns?: string;
  tap?: { name: string; fd: number };
  sockets: { path: string; fd: number }[];
  /** A second descriptor for standard error. */
  stderrCopy?: number;
  root: { mountPoint: string; binds: { path: string; access: "read" | "execute" | "write" }[]; devices: string[] };
  rlimits: { nofile: number; nproc: number; memlock: number };
  oomScoreAdj?: number;
  /** False: the VMM gets no transparent huge pages. */
  hugePages: boolean;
  pidFile: string;
}

export interface Launched {
  process: ProcessRef;
  /** What the VMM writes to standard error, for as long as this server lives; after that it is lost. */
  stderr: StderrTail;
}

export interface StderrTail {
  /** The end of it, at most 4 KiB. */
  text(): string;
  /** Called with each whole line from now on, cut at 1000 characters. */
  onLine(listener: (line: string) => void): void;
}

const Ref = v.object({
  pid: v.pipe(v.number(), v.integer(), v.minValue(1)),
  starttime: v.pipe(v.number(), v.minValue(0)),
});
const Answer = v.union([
  Ref,
  v.object({ error: v.object({ step: v.string(), errno: v.number(), message: v.string() }) }),
]);

const MAX_ANSWER = 64 << 10;
const KEPT_STDERR = 4 << 10;
const MAX_LINE = 1000;

/** Starts the VMM. After a rejection no process and none of the document's sockets and pid file are left. */
export function launch(launcher: string, document: LaunchDocument, deadlineMs: number): Promise<Launched> {
  return launchBy([launcher], document, deadlineMs);
}

/**
 * Runs a program that reads a document, starts a process that outlives it, and answers pid and start time in one line: podvm-launch, and
 * podvm-agent for pods without a VM.
 */
export function launchBy(
  argv: readonly [string, ...string[]],
  document: object,
  deadlineMs: number,
): Promise<Launched> {
  const [launcher, ...args] = argv;
  return new Promise((resolve, reject) => {
    const child = spawn(launcher, args, { stdio: ["pipe", "pipe", "pipe"], env: {} });
    let answer = "";
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, deadlineMs);
    child.stdin.on("error", () => {}); // it may fail before it has read everything: its answer tells
    child.stdin.end(JSON.stringify(document));
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      if (answer.length < MAX_ANSWER) answer += text;
    });
    // The VMM keeps this stream; it is read so that it tells why the VMM died.
    const stderr = readTail(child.stderr);

    let ended = false;
    const end = (code: number | null, signal: NodeJS.Signals | null) => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      if (late) {
        return reject(new PodvmError("deadline_exceeded", `${launcher}: killed after ${Math.round(deadlineMs)} ms`));
      }
      const parsed = v.safeParse(Answer, parseJson(answer));
      if (!parsed.success) {
        const how = signal ?? `exit code ${code}`;
        return reject(
          new PodvmError("internal", `${launcher}: ${how} without an answer: ${stderr.text().slice(-500)}`),
        );
      }
      if ("error" in parsed.output) {
        const { step, message } = parsed.output.error;
        return reject(new PodvmError("internal", `cannot start the VMM: ${step}: ${message}`));
      }
      resolve({ process: parsed.output, stderr });
    };
    child.once("error", (err) => {
      clearTimeout(timer);
      reject(new PodvmError("not_found", `cannot run ${launcher}: ${err.message}: run setup`, { cause: err }));
    });
    // Not "close": standard error stays open for as long as the VMM runs.
    child.once("exit", (code, signal) => {
      if (child.stdout.readableEnded) end(code, signal);
      else child.stdout.once("close", () => end(code, signal));
    });
  });
}

function readTail(stream: Readable): StderrTail {
  let tail = "";
  let line = "";
  let listener: ((line: string) => void) | undefined;
  stream.setEncoding("utf8").on("data", (text: string) => {
    tail = (tail + text).slice(-KEPT_STDERR);
    const lines = (line + text).split("\n");
    line = (lines.pop() ?? "").slice(0, MAX_LINE);
    for (const whole of lines) listener?.(whole.slice(0, MAX_LINE).trimEnd());
  });
  stream.on("error", () => {}); // the end of the VMM
  (stream as unknown as Partial<Socket>).unref?.(); // a VMM outlives the server and must not hold it back
  return {
    text: () => tail.trim(),
    onLine: (l) => {
      listener = l;
    },
  };
}

/** The process named by a pid file that podvm-launch wrote; undefined where there is none. */
export async function readPidFile(path: string): Promise<ProcessRef | undefined> {
  const text = await readFileIfThere(path);
  if (text === undefined) return undefined;
  const parsed = v.safeParse(Ref, parseJson(text));
  if (!parsed.success) throw new PodvmError("internal", `${path}: no pid file: ${JSON.stringify(text.slice(0, 200))}`);
  return parsed.output;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
