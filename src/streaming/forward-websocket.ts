/**
 * Port-forward over plain WebSocket channels (v4.channel.k8s.io): two channels per port of the request, data and error, one connection each.
 * The first message on every channel is its port as two bytes, little endian.
 */
import type { WebSocket } from "ws";
import { messageOf } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import { FINISH_MS } from "./remote-command.js";
import type { ByteSink, ForwardRequest, StreamBackend } from "./session.js";
import { WebSocketChannels } from "./websocket.js";

export const FORWARD_WEBSOCKET_PROTOCOL = "v4.channel.k8s.io";
/** Channels are numbered by one byte, and 255 is taken. */
export const MAX_FORWARD_WEBSOCKET_PORTS = 127;

/** Serves one client until all of its connections have ended, or it is gone. Never rejects. */
export async function serveForwardWebSocket(
  socket: WebSocket,
  request: ForwardRequest,
  backend: StreamBackend,
  logger: Logger,
): Promise<void> {
  const channels = new WebSocketChannels(socket);
  const one = async (port: number, index: number) => {
    const source = channels.source(index * 2);
    const out = channels.sink(index * 2);
    // Neither side can tell the other that a direction has ended: the pod's end is the connection's.
    const sink: ByteSink = {
      write: (data) => out.write(data),
      end: async () => {
        await out.end();
        source.discard();
      },
    };
    const announce = Buffer.from([port & 255, port >> 8]);
    try {
      await channels.send(index * 2, announce);
      await channels.send(index * 2 + 1, announce);
      await backend.portForward(request.podId, port, { source, sink, signal: channels.signal });
    } catch (err) {
      logger.debug("streaming: a forwarded connection failed", { port, error: messageOf(err) });
      const message = `error forwarding port ${port} to pod ${request.podId}: ${messageOf(err)}`.slice(0, 4096);
      await channels.send(index * 2 + 1, Buffer.from(message)).catch(() => {}); // the client is gone
    }
    source.discard();
  };
  await Promise.all(request.ports.map(one));
  await channels.finish(FINISH_MS);
}
