/** Runs one CNI plugin by the protocol (SPEC section 2): parameters in the environment, configuration on stdin, JSON on stdout. */
import { spawn } from "node:child_process";
import { type ErrorCode, PodvmError } from "../host/errors.js";

export type CniCommand = "ADD" | "DEL" | "CHECK" | "STATUS" | "VERSION";

export interface PluginCall {
  command: CniCommand;
  /** Path of the program. */
  program: string;
  /** Written to its standard input as JSON. */
  config: Record<string, unknown>;
  /** CNI_* of this call, beside CNI_COMMAND. */
  parameters: Record<string, string>;
  /** What else is in the environment. */
  env: NodeJS.ProcessEnv;
  deadlineMs: number;
}

const maxOutput = 1 << 20;
/** How long after the plugin's exit its streams may stay open in processes it left behind. */
const lingerMs = 1000;

/**
 * @returns the parsed JSON, undefined where it printed nothing
 * @throws PodvmError naming the plugin and command: the plugin's own error with its code and details, deadline_exceeded (the
 *   plugin and what it started are killed), not_found (no such program), or internal
 */
export async function runPlugin(call: PluginCall): Promise<unknown> {
  const who = `CNI plugin ${call.program} (${call.command})`;
  const { code, signal, stdout, stderr } = await execute(call, who);
  if (code === 0) {
    if (stdout.trim() === "") return undefined;
    const json = parseJson(stdout);
    if (json === undefined) throw new PodvmError("internal", `${who}: its answer is not JSON: ${excerpt(stdout)}`);
    return json;
  }
  throw pluginError(who, stdout, stderr, signal ? `ended by ${signal}` : `exit code ${code}`);
}

/** What a failing plugin said (SPEC section 5, "Error"), as our error. */
function pluginError(who: string, stdout: string, stderr: string, how: string): PodvmError {
  const json = parseJson(stdout);
  if (typeof json === "object" && json !== null && "code" in json && typeof json.code === "number") {
    const said = ["msg" in json ? json.msg : "", "details" in json ? json.details : ""]
      .filter((part): part is string => typeof part === "string" && part !== "")
      .map(excerpt);
    return new PodvmError(statusOf(json.code), `${who}: ${said.join(": ") || how} (CNI error ${json.code})`);
  }
  const said = excerpt(stderr) || excerpt(stdout);
  return new PodvmError("internal", `${who}: ${how}${said ? `: ${said}` : " without a word"}`);
}

/** Codes of SPEC section 5. */
function statusOf(code: number): ErrorCode {
  if ([1, 2, 4, 6, 7].includes(code)) return "failed_precondition"; // versions, fields, environment, configuration
  if ([11, 50, 51].includes(code)) return "unavailable"; // try again later; STATUS: cannot serve
  return "internal";
}

function excerpt(text: string): string {
  return text.trim().slice(-1000);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

function execute(call: PluginCall, who: string): Promise<Exit> {
  return new Promise((resolve, reject) => {
    // A process group of its own: the deadline must also end the IPAM plugin and the iptables that it runs.
    const child = spawn(call.program, [], {
      stdio: ["pipe", "pipe", "pipe"],
      detached: true,
      cwd: "/",
      env: { ...withoutCni(call.env), ...call.parameters, CNI_COMMAND: call.command },
    });
    let killedFor: PodvmError | undefined;
    let linger: NodeJS.Timeout | undefined;
    const kill = (why: PodvmError) => {
      if (killedFor) return;
      killedFor = why;
      linger = setTimeout(() => finish(null, "SIGKILL"), lingerMs); // a process stuck in the kernel must not hold the caller
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // ESRCH: the whole group is gone already
      }
    };
    const deadline = setTimeout(
      () => kill(new PodvmError("deadline_exceeded", `${who}: killed after ${Math.round(call.deadlineMs)} ms`)),
      Math.max(1, call.deadlineMs),
    );
    const stdout = collect(child.stdout, () =>
      kill(new PodvmError("internal", `${who}: killed, its answer is longer than ${maxOutput} bytes`)),
    );
    const stderr = collect(child.stderr, () => {});
    child.stdin.on("error", () => {}); // it may exit without reading: its answer tells
    child.stdin.end(JSON.stringify(call.config));

    const finish = (code: number | null, signal: NodeJS.Signals | null) => {
      clearTimeout(deadline);
      clearTimeout(linger);
      child.stdout.destroy();
      child.stderr.destroy();
      if (killedFor) reject(killedFor);
      else resolve({ code, signal, stdout: stdout(), stderr: stderr() });
    };
    child.once("error", (err: NodeJS.ErrnoException) => {
      clearTimeout(deadline);
      reject(
        new PodvmError(err.code === "ENOENT" ? "not_found" : "internal", `${who}: cannot be run: ${err.message}`, {
          cause: err,
        }),
      );
    });
    child.once("exit", (code, signal) => {
      clearTimeout(linger);
      linger = setTimeout(() => finish(code, signal), lingerMs);
    });
    child.once("close", finish);
  });
}

/** Collects at most `maxOutput` bytes; calls `onOverflow` at the first byte beyond. */
function collect(stream: NodeJS.ReadableStream, onOverflow: () => void): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  stream.on("data", (chunk: Buffer) => {
    if (size < maxOutput) chunks.push(chunk.subarray(0, maxOutput - size));
    size += chunk.length;
    if (size > maxOutput) onOverflow();
  });
  return () => Buffer.concat(chunks).toString("utf8");
}

/** The server's own CNI_* must not reach a plugin. */
function withoutCni(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([key]) => !key.startsWith("CNI_")));
}
