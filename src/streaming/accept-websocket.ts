import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { createWebSocketStream, type WebSocket, WebSocketServer } from "ws";
import type { Logger } from "../host/log.js";
import { FORWARD_SPDY_PROTOCOL, serveForwardSpdy } from "./forward-spdy.js";
import { FORWARD_WEBSOCKET_PROTOCOL, MAX_FORWARD_WEBSOCKET_PORTS, serveForwardWebSocket } from "./forward-websocket.js";
import { choose, listed } from "./negotiate.js";
import { refuse } from "./refuse.js";
import { REMOTE_WEBSOCKET_PROTOCOLS, serveRemoteWebSocket } from "./remote-websocket.js";
import type { StreamBackend, StreamRequest } from "./session.js";
import { MAX_MESSAGE } from "./websocket.js";

/** SPDY inside of a WebSocket's binary messages (KEP-4006). The "/" makes it no legal name of a subprotocol. */
const TUNNEL = `SPDY/3.1+${FORWARD_SPDY_PROTOCOL}`;
const PROTOCOL_HEADER = "sec-websocket-protocol";

/**
 * Answers upgrades to WebSocket. A request's Origin is not looked at: what protects from pages in a browser is the token, which they
 * cannot know.
 */
export class WebSocketAcceptor {
  readonly #server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: MAX_MESSAGE,
    handleProtocols: (_, http) => this.#chosen.get(http) ?? false,
  });
  readonly #chosen = new WeakMap<IncomingMessage, string>();

  constructor() {
    // `ws` refuses requests with TUNNEL's name: it was taken off the request, and is said here.
    this.#server.on("headers", (headers, http) => {
      if (this.#chosen.get(http) === TUNNEL) headers.push(`Sec-WebSocket-Protocol: ${TUNNEL}`);
    });
  }

  /** Serves the client until it is gone. Never rejects. */
  async accept(
    http: IncomingMessage,
    socket: Duplex,
    head: Buffer,
    request: StreamRequest,
    backend: StreamBackend,
    logger: Logger,
  ): Promise<void> {
    const wanted = listed(http, PROTOCOL_HEADER);
    const spoken = request.kind === "portforward" ? [TUNNEL, FORWARD_WEBSOCKET_PROTOCOL] : REMOTE_WEBSOCKET_PROTOCOLS;
    const protocol = choose<string>(wanted, spoken);
    if (!protocol) {
      const found = wanted.join(", ").slice(0, 200) || "none";
      return refuse(socket, 400, `WebSocket protocol: wanted one of ${spoken.join(", ")}, found ${found}`);
    }
    const ports = request.kind === "portforward" ? request.ports.length : 0;
    if (protocol === FORWARD_WEBSOCKET_PROTOCOL && request.kind === "portforward") {
      if (ports === 0 || ports > MAX_FORWARD_WEBSOCKET_PORTS) {
        const text = `${protocol} wants 1 to ${MAX_FORWARD_WEBSOCKET_PORTS} ports in the PortForward request, found ${ports}`;
        return refuse(socket, 400, text);
      }
    }
    this.#chosen.set(http, protocol);
    if (protocol === TUNNEL) delete http.headers[PROTOCOL_HEADER];
    const client = await this.#upgrade(http, socket, head);
    if (!client) return;
    if (request.kind !== "portforward") await serveRemoteWebSocket(client, request, backend, logger);
    else if (protocol !== TUNNEL) await serveForwardWebSocket(client, request, backend, logger);
    else await serveForwardSpdy(createWebSocketStream(client), request, backend, logger);
  }

  /** Undefined when the handshake failed: `ws` has answered then. */
  #upgrade(http: IncomingMessage, socket: Duplex, head: Buffer): Promise<WebSocket | undefined> {
    return new Promise((resolve) => {
      socket.once("close", () => resolve(undefined));
      this.#server.handleUpgrade(http, socket, head, resolve);
    });
  }
}
