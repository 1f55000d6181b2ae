import type { DialStream } from "../agent/streams.js";
import { withDeadline } from "../host/deadline.js";
import type { ByteSource, ForwardIo } from "../streaming/session.js";
import type { PodContext } from "./context.js";

const AGENT_WAIT_MS = 60_000;
/** Both loopback addresses at 10 s each, and the way to the guest. */
const CONNECT_MS = 30_000;

/**
 * One TCP connection to a port inside the pod's VM, on its loopback interface: servers that listen on localhost only are reached too.
 * Each direction ends by itself; the connection is over when both have, or the client has given it up.
 */
export async function portForward(ctx: PodContext, podId: string, port: number, io: ForwardIo): Promise<void> {
  const agent = await ctx.registry.pod(podId).agent(AGENT_WAIT_MS);
  const dial = agent.dial(port);
  const onAbort = () => dial.cancel();
  io.signal.addEventListener("abort", onAbort, { once: true });
  try {
    if (io.signal.aborted) throw io.signal.reason;
    await withDeadline(dial.next(), CONNECT_MS, `a connection to port ${port} of pod ${podId}`);
    void sendUp(io.source, dial);
    for (let message = await dial.next(); message; message = await dial.next()) {
      if (message.eof) await io.sink.end();
      else await io.sink.write(message.data);
    }
  } finally {
    io.signal.removeEventListener("abort", onAbort);
    dial.cancel();
  }
}

/** Until the client closes its direction. */
async function sendUp(source: ByteSource, dial: DialStream): Promise<void> {
  try {
    for await (const data of source) await dial.write(data);
    dial.closeWrite();
  } catch {
    // the connection has ended, or the client is gone: the other direction tells which
  }
}
