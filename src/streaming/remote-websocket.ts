/** Exec and attach over a WebSocket (v4.channel.k8s.io, v5.channel.k8s.io). */
import type { WebSocket } from "ws";
import type { Logger } from "../host/log.js";
import { FINISH_MS, type RemoteRequest, runRemote } from "./remote-command.js";
import type { StreamBackend } from "./session.js";
import { LatestSize, SizeDecoder } from "./terminal-size.js";
import { WebSocketChannels } from "./websocket.js";

/** v5 adds the message by which the client closes its standard input. */
export const REMOTE_WEBSOCKET_PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"] as const;

const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
const ERROR = 3;
const RESIZE = 4;

/** Serves one client until it is gone. Never rejects. */
export async function serveRemoteWebSocket(
  socket: WebSocket,
  request: RemoteRequest,
  backend: StreamBackend,
  logger: Logger,
): Promise<void> {
  const channels = new WebSocketChannels(socket);
  const resize = new LatestSize();
  const sizes = channels.source(RESIZE);
  const stdin = request.stdin ? channels.source(STDIN) : undefined;
  void (async () => {
    const decoder = new SizeDecoder();
    for await (const piece of sizes) for (const size of decoder.push(piece)) resize.set(size);
  })().catch(() => {}); // the client is gone: whoever runs the command learns it by its signal
  // Tells the client that the session has begun, as kubelet does.
  await channels.send(request.stdout ? STDOUT : request.stderr ? STDERR : ERROR, Buffer.alloc(0)).catch(() => {});
  await runRemote(
    backend,
    request,
    {
      ...(stdin && { stdin }),
      ...(request.stdout && { stdout: channels.sink(STDOUT) }),
      ...(request.stderr && { stderr: channels.sink(STDERR) }),
      resize,
      signal: channels.signal,
      jsonStatus: true,
      sendOutcome: (message) => channels.send(ERROR, message),
    },
    logger,
  );
  await channels.finish(FINISH_MS);
}
