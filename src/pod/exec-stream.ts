import type { Agent } from "../agent/client.js";
import type { ExecStream } from "../agent/streams.js";
import { messageOf, PodvmError } from "../host/errors.js";
import { newId } from "../host/ids.js";
import type { ByteSource, ExecRequest, RemoteIo, TerminalSize } from "../streaming/session.js";
import type { Container } from "./container.js";
import type { PodContext } from "./context.js";

/** For the agent to be there. */
const AGENT_WAIT_MS = 60_000;

/** The container, which must run: what a client of a streaming call is told before it gets a URL. */
export function runningContainer(ctx: PodContext, id: string): Container {
  const container = ctx.registry.container(id);
  if (!container.running) throw container.wrongState("running");
  return container;
}

/** Runs a command in a container with the client's streams. When the client goes away, the agent kills every process of it. */
export async function execStream(ctx: PodContext, request: ExecRequest, io: RemoteIo): Promise<number> {
  const container = runningContainer(ctx, request.containerId);
  const pod = ctx.registry.pod(container.document.podId);
  const agent = await pod.agent(AGENT_WAIT_MS);
  const execId = newId();
  const exec = agent.exec({
    containerId: container.id,
    execId,
    args: request.command,
    tty: request.tty,
    stdin: io.stdin !== undefined,
  });
  const onAbort = () => exec.cancel();
  io.signal.addEventListener("abort", onAbort, { once: true });
  if (io.signal.aborted) onAbort();
  if (io.stdin) void sendInput(io.stdin, exec);
  let started = false;
  try {
    for (;;) {
      const message = await exec.next();
      if (message?.startedPid !== undefined && !started) {
        started = true; // whatever a guest says how often
        const note = (err: unknown) =>
          ctx.logger.debug("resize of an exec's terminal", { container: container.id, error: messageOf(err) });
        if (request.tty) void resizeTerminal(agent, container.id, execId, io.resize, note);
      }
      if (message?.stdout) await io.stdout?.write(message.stdout);
      // With a terminal there is only what the agent itself says, such as why the command cannot be run.
      if (message?.stderr) await (request.tty ? io.stdout : io.stderr)?.write(message.stderr);
      if (message?.exit) return message.exit.exitCode;
      if (!message) throw new PodvmError("internal", `exec in ${container.id}: the guest told no exit code`);
    }
  } finally {
    io.signal.removeEventListener("abort", onAbort);
    exec.cancel(); // a client that closed its output: the command has nobody to write to
  }
}

/** Until the client closes its input, or the command is over: then nobody wants the rest. */
async function sendInput(stdin: ByteSource, exec: ExecStream): Promise<void> {
  try {
    for await (const data of stdin) await exec.write(data);
    exec.closeStdin();
  } catch {
    // the command has ended, or the client is gone; the output's side says which
  }
}

/** Until the session ends. A size that cannot be set is noted, and the next one tried. */
export async function resizeTerminal(
  agent: Agent,
  containerId: string,
  execId: string,
  sizes: AsyncIterable<TerminalSize>,
  note: (err: unknown) => void,
): Promise<void> {
  for await (const { width, height } of sizes) {
    await agent.resizeTerminal({ containerId, execId, width, height }).catch(note);
  }
}
