/** Exec and attach over SPDY: one stream per channel, told apart by their `streamtype` header. */
import type { Duplex } from "node:stream";
import { PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import { FINISH_MS, type RemoteRequest, runRemote, STREAMS_WAIT_MS } from "./remote-command.js";
import type { StreamBackend } from "./session.js";
import { SpdyConnection } from "./spdy/connection.js";
import { Reset } from "./spdy/frames.js";
import type { SpdyStream } from "./spdy/stream.js";
import { LatestSize, SizeDecoder } from "./terminal-size.js";

/** In the order of their age, newest first. v2 is v1 with a fixed order of streams, v3 adds resize, v4 the JSON status. */
export const REMOTE_SPDY_PROTOCOLS = [
  "v4.channel.k8s.io",
  "v3.channel.k8s.io",
  "v2.channel.k8s.io",
  "channel.k8s.io",
] as const;
export type RemoteSpdyProtocol = (typeof REMOTE_SPDY_PROTOCOLS)[number];

/** Serves one client until it is gone. Never rejects. */
export async function serveRemoteSpdy(
  transport: Duplex,
  protocol: RemoteSpdyProtocol,
  request: RemoteRequest,
  backend: StreamBackend,
  logger: Logger,
  streamsWaitMs = STREAMS_WAIT_MS,
): Promise<void> {
  const wanted = new Set(["error"]);
  for (const name of ["stdin", "stdout", "stderr"] as const) if (request[name]) wanted.add(name);
  const sizes = protocol === "v4.channel.k8s.io" || protocol === "v3.channel.k8s.io";
  if (request.tty && sizes) wanted.add("resize");

  const streams = new Map<string, SpdyStream>();
  let complete = () => {};
  const allThere = new Promise<void>((resolve) => {
    complete = resolve;
  });
  const connection = new SpdyConnection(transport, {
    onStream(stream) {
      const type = stream.headers.get("streamtype") ?? "";
      if (!wanted.has(type) || streams.has(type)) return stream.reset(Reset.REFUSED_STREAM);
      streams.set(type, stream);
      if (streams.size === wanted.size) complete();
    },
  });
  const timer = setTimeout(() => {
    const missing = [...wanted].filter((type) => !streams.has(type)).join(", ");
    connection.destroy(
      new PodvmError(
        "deadline_exceeded",
        `the client did not open these streams within ${streamsWaitMs} ms: ${missing}`,
      ),
    );
  }, streamsWaitMs);
  await Promise.race([allThere, connection.closed]);
  clearTimeout(timer);
  const error = streams.get("error");
  if (connection.signal.aborted || streams.size < wanted.size || !error) {
    logger.debug("streaming: no session", { reason: String(connection.signal.reason) });
    return;
  }

  // Nothing is to come on these; whatever does is dropped.
  for (const type of ["error", "stdout", "stderr"]) streams.get(type)?.source.discard();
  const resize = new LatestSize();
  void readSizes(streams.get("resize"), resize);
  const stdin = streams.get("stdin")?.source;
  const stdout = streams.get("stdout");
  const stderr = streams.get("stderr");
  await runRemote(
    backend,
    request,
    {
      ...(stdin && { stdin }),
      ...(stdout && { stdout }),
      ...(stderr && { stderr }),
      resize,
      signal: connection.signal,
      jsonStatus: protocol === "v4.channel.k8s.io",
      async sendOutcome(message) {
        await error.write(message);
        await error.end();
      },
    },
    logger,
  );
  await connection.finish(FINISH_MS);
}

async function readSizes(stream: SpdyStream | undefined, into: LatestSize): Promise<void> {
  const decoder = new SizeDecoder();
  try {
    for (;;) {
      const piece = await stream?.source.next();
      if (!piece) return;
      for (const size of decoder.push(piece)) into.set(size);
    }
  } catch {
    // the client is gone: whoever runs the command learns it by its signal
  }
}
