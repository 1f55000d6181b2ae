import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import type { Logger } from "../host/log.js";
import { FORWARD_SPDY_PROTOCOL, serveForwardSpdy } from "./forward-spdy.js";
import { choose, listed } from "./negotiate.js";
import { refuse } from "./refuse.js";
import { REMOTE_SPDY_PROTOCOLS, serveRemoteSpdy } from "./remote-spdy.js";
import type { StreamBackend, StreamRequest } from "./session.js";

const VERSION_HEADER = "X-Stream-Protocol-Version";

/** Answers an upgrade to SPDY/3.1 and serves the client until it is gone. Never rejects. */
export async function acceptSpdy(
  http: IncomingMessage,
  socket: Duplex,
  request: StreamRequest,
  backend: StreamBackend,
  logger: Logger,
): Promise<void> {
  const wanted = listed(http, VERSION_HEADER.toLowerCase());
  if (wanted.length === 0) return refuse(socket, 400, `wanted the header ${VERSION_HEADER}, found none`);
  const spoken: readonly string[] = request.kind === "portforward" ? [FORWARD_SPDY_PROTOCOL] : REMOTE_SPDY_PROTOCOLS;
  const protocol = choose(wanted, spoken);
  if (!protocol) {
    const all = spoken.join(", ");
    const text = `${VERSION_HEADER}: wanted one of ${all}, found ${wanted.join(", ").slice(0, 200)}`;
    return refuse(socket, 403, text, { "X-Accepted-Stream-Protocol-Versions": all });
  }
  socket.write(
    `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n${VERSION_HEADER}: ${protocol}\r\n\r\n`,
  );
  if (request.kind === "portforward") return serveForwardSpdy(socket, request, backend, logger);
  const remote = REMOTE_SPDY_PROTOCOLS.find((name) => name === protocol);
  if (remote) await serveRemoteSpdy(socket, remote, request, backend, logger);
}
