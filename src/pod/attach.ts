import type { InputStream } from "../agent/streams.js";
import { messageOf, PodvmError } from "../host/errors.js";
import type { AttachRequest, ByteSource, RemoteIo } from "../streaming/session.js";
import { AttachOutput } from "./attach-output.js";
import type { Container } from "./container.js";
import type { PodContext } from "./context.js";
import { resizeTerminal, runningContainer } from "./exec-stream.js";

const AGENT_WAIT_MS = 60_000;
/** How long a container may be kept waiting by a client that does not read. */
const STALL_MS = 60_000;

/** The container, where it can be attached to in this way; what a client is told before it gets a URL. */
export function attachable(ctx: PodContext, request: AttachRequest): Container {
  const container = runningContainer(ctx, request.containerId);
  if (request.stdin && !container.document.config.stdin) {
    throw new PodvmError(
      "failed_precondition",
      `container ${container.id}: stdin was asked for, it was created without`,
    );
  }
  return container;
}

/**
 * Joins the client's streams to those of the container's first process, from now on: earlier output is in the log. Ends with the output that
 * was asked for, where none was with the input.
 */
export async function attach(ctx: PodContext, request: AttachRequest, io: RemoteIo): Promise<void> {
  const container = attachable(ctx, request);
  const { pump } = container;
  if (!pump) throw new PodvmError("failed_precondition", `container ${container.id}: its output has ended`);
  const pod = ctx.registry.pod(container.document.podId);
  const agent = await pod.agent(AGENT_WAIT_MS);
  const note = (err: unknown) => ctx.logger.debug("attach", { container: container.id, error: messageOf(err) });

  const output = new AttachOutput({ stdout: io.stdout, stderr: io.stderr }, STALL_MS);
  const unsubscribe = pump.subscribe(output);
  const onAbort = () => output.stop(io.signal.reason);
  io.signal.addEventListener("abort", onAbort, { once: true });
  if (io.signal.aborted) onAbort();
  try {
    if (container.document.config.tty) void resizeTerminal(agent, container.id, "", io.resize, note);
    const input = io.stdin ? agent.input(container.id) : undefined;
    const sending = input && io.stdin && sendInput(io.stdin, input, container.document.config.stdinOnce);
    sending?.catch(note); // waited for below, where there is nothing else to wait for
    if (io.stdout || io.stderr) await output.done();
    else await sending;
  } finally {
    io.signal.removeEventListener("abort", onAbort);
    unsubscribe();
    output.stop(new PodvmError("cancelled", "attach has ended"));
  }
}

/** Until the client closes its input, or is gone. Either closes the container's input where it was created to be closed so (stdin_once). */
async function sendInput(stdin: ByteSource, input: InputStream, once: boolean): Promise<void> {
  try {
    for await (const data of stdin) await input.write(data);
  } finally {
    await input.end(once);
  }
}
