/**
 * Port-forward over SPDY (portforward.k8s.io): any number of connections at a time, each a pair of streams, `data` and `error`, that
 * carry the same `requestid` and `port` headers.
 */
import type { Duplex } from "node:stream";
import { messageOf } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import { STREAMS_WAIT_MS } from "./remote-command.js";
import type { ForwardRequest, StreamBackend } from "./session.js";
import { SpdyConnection } from "./spdy/connection.js";
import { Reset } from "./spdy/frames.js";
import type { SpdyStream } from "./spdy/stream.js";

export const FORWARD_SPDY_PROTOCOL = "portforward.k8s.io";

interface Pair {
  port: number;
  data?: SpdyStream;
  error?: SpdyStream;
  timer: NodeJS.Timeout;
}

/** Serves one client until it is gone, and resolves when all of its connections into the pod have ended. Never rejects. */
export async function serveForwardSpdy(
  transport: Duplex,
  request: ForwardRequest,
  backend: StreamBackend,
  logger: Logger,
): Promise<void> {
  const pairs = new Map<string, Pair>();
  const running = new Set<Promise<void>>();
  const connection = new SpdyConnection(transport, {
    onStream(stream) {
      const type = stream.headers.get("streamtype");
      const port = parsePort(stream.headers.get("port"));
      if ((type !== "data" && type !== "error") || port === undefined) return stream.reset(Reset.REFUSED_STREAM);
      const id = requestId(stream, type);
      const pair = pairs.get(id) ?? begin(id, port);
      if (pair[type] || pair.port !== port) return stream.reset(Reset.REFUSED_STREAM);
      pair[type] = stream;
      if (!pair.data || !pair.error) return;
      forget(id);
      const work = forward(backend, request.podId, port, pair.data, pair.error, logger).finally(() =>
        running.delete(work),
      );
      running.add(work);
    },
  });

  const begin = (id: string, port: number): Pair => {
    const timer = setTimeout(() => {
      forget(id);
      pair.data?.reset();
      pair.error?.reset();
    }, STREAMS_WAIT_MS);
    const pair: Pair = { port, timer };
    pairs.set(id, pair);
    return pair;
  };
  const forget = (id: string) => {
    clearTimeout(pairs.get(id)?.timer);
    pairs.delete(id);
  };
  await connection.closed;
  for (const id of [...pairs.keys()]) forget(id);
  await Promise.all(running);
}

/** Clients of old have no request id: their error stream comes right before the data stream. */
function requestId(stream: SpdyStream, type: "data" | "error"): string {
  const id = stream.headers.get("requestid");
  return id ? `r${id}` : `s${type === "error" ? stream.id : stream.id - 2}`;
}

export function parsePort(text: string | undefined): number | undefined {
  if (!text || !/^[0-9]{1,5}$/.test(text)) return undefined;
  const port = Number(text);
  return port >= 1 && port <= 65535 ? port : undefined;
}

async function forward(
  backend: StreamBackend,
  podId: string,
  port: number,
  data: SpdyStream,
  error: SpdyStream,
  logger: Logger,
): Promise<void> {
  error.source.discard();
  try {
    await backend.portForward(podId, port, { source: data.source, sink: data, signal: data.signal });
  } catch (err) {
    logger.debug("streaming: a forwarded connection failed", { port, error: messageOf(err) });
    // Not when the client has reset the data: client-go does so with every connection that the pod has closed, and takes any message for
    // the end of all of them.
    if (data.signal.aborted) return error.end();
    const message = `error forwarding port ${port} to pod ${podId}: ${messageOf(err)}`.slice(0, 4096);
    await error.write(Buffer.from(message)).catch(() => {}); // the client has given up already
  }
  data.source.discard();
  await data.end();
  await error.end();
}
