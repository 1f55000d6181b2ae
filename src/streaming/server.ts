/** The HTTP server that the URLs of Exec, Attach and PortForward lead to. */
import { createServer, type IncomingMessage } from "node:http";
import { type AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { messageOf, PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import { acceptSpdy } from "./accept-spdy.js";
import { WebSocketAcceptor } from "./accept-websocket.js";
import { refuse } from "./refuse.js";
import type { StreamBackend, StreamRequest } from "./session.js";
import { Tokens } from "./tokens.js";

export interface StreamingServerOptions {
  backend: StreamBackend;
  logger: Logger;
  /** A loopback address: whoever has a URL needs no other permission. Default 127.0.0.1. */
  address?: string;
  /** Default 0: any free one. */
  port?: number;
  /** How long a client may take to come, in milliseconds. Default 60 s. */
  tokenTtlMs?: number;
  /** How long a client may take to send its request's head, in milliseconds; sessions last as long as they want. Default 10 s. */
  requestTimeoutMs?: number;
  /** Requests that may wait for their clients. Default 1000. */
  maxTokens?: number;
  /** Clients at a time. Default 1000. */
  maxSessions?: number;
}

export interface StreamingServer {
  /** Rejects with unavailable when the address cannot be had. */
  listen(): Promise<void>;
  /** Cuts all sessions. Resolves when nothing of them runs any more. Idempotent. */
  close(): Promise<void>;
  /** For one client, once, within the time. Throws resource_exhausted when too many wait, unavailable before `listen`. */
  url(request: StreamRequest): string;
  /** Sessions that run, and requests that wait for their clients. */
  readonly load: { sessions: number; waiting: number };
}

const PATH = /^\/(exec|attach|portforward)\/([^/?]{1,64})$/;
const SPOKEN = "SPDY/3.1 or websocket";

export function createStreamingServer(options: StreamingServerOptions): StreamingServer {
  const { backend, address = "127.0.0.1", port = 0, maxSessions = 1000 } = options;
  const logger = options.logger.child({ room: "streaming" });
  const tokens = new Tokens(options.tokenTtlMs ?? 60_000, options.maxTokens ?? 1000);
  const webSockets = new WebSocketAcceptor();
  const sessions = new Map<Duplex, Promise<void>>();
  let closed: Promise<void> | undefined;

  const requestTimeout = options.requestTimeoutMs ?? 10_000;
  const http = createServer({
    maxHeaderSize: 16 * 1024,
    headersTimeout: requestTimeout,
    requestTimeout,
    connectionsCheckingInterval: requestTimeout,
  });
  http.maxConnections = maxSessions + 100;
  http.on("request", (request, response) => {
    const known = takeToken(tokens, request) !== undefined;
    response.writeHead(known ? 400 : 404, { "Content-Type": "text/plain; charset=utf-8", Connection: "close" });
    response.end(known ? `wanted an upgrade to ${SPOKEN}, found a plain request\n` : NOT_FOUND);
  });
  http.on("clientError", (err, socket) => {
    logger.debug("streaming: a request that cannot be read", { error: messageOf(err) });
    if (socket.writable) void refuse(socket, 400, "not an HTTP request");
  });
  http.on("upgrade", (request, socket, head) => {
    socket.on("error", (err) => logger.debug("streaming: connection", { error: messageOf(err) }));
    const session = serve(request, socket, head)
      .catch((err) => logger.error("streaming: a session failed", { err }))
      .finally(() => {
        sessions.delete(socket);
        socket.destroy();
      });
    sessions.set(socket, session);
  });

  const serve = async (request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> => {
    const stream = takeToken(tokens, request);
    if (!stream) return refuse(socket, 404, NOT_FOUND.trimEnd());
    if (sessions.size >= maxSessions) {
      return refuse(socket, 503, `${maxSessions} streaming sessions run already: try again when one has ended`);
    }
    if (socket instanceof Socket) {
      socket.setNoDelay(true);
      socket.setTimeout(0);
    }
    const about = stream.kind === "portforward" ? { podSandboxId: stream.podId } : { containerId: stream.containerId };
    const log = logger.child({ kind: stream.kind, ...about });
    const protocol = (request.headers.upgrade ?? "").toLowerCase();
    log.debug("streaming: a client", { protocol });
    if (protocol === "spdy/3.1") {
      if (head.length > 0) socket.unshift(head);
      await acceptSpdy(request, socket, stream, backend, log);
    } else if (protocol === "websocket") {
      await webSockets.accept(request, socket, head, stream, backend, log);
    } else {
      return refuse(socket, 400, `wanted an upgrade to ${SPOKEN}, found ${protocol.slice(0, 100)}`);
    }
    log.debug("streaming: the session is over");
  };

  const shutDown = async () => {
    tokens.clear();
    const unlistened = new Promise<void>((resolve) => http.close(() => resolve()));
    for (const socket of sessions.keys()) socket.destroy();
    http.closeAllConnections();
    await Promise.all(sessions.values());
    await unlistened;
  };

  return {
    listen() {
      return new Promise((resolve, reject) => {
        const fail = (err: Error) =>
          reject(
            new PodvmError("unavailable", `streaming server on ${address}:${port}: ${err.message}`, { cause: err }),
          );
        http.once("error", fail);
        http.listen(port, address, () => {
          http.off("error", fail);
          http.on("error", (err) => logger.error("streaming server", { err }));
          logger.debug("streaming server listens", { address, port: (http.address() as AddressInfo).port });
          resolve();
        });
      });
    },
    close() {
      closed ??= shutDown();
      return closed;
    },
    url(request) {
      const bound = http.address();
      if (closed || bound === null || typeof bound === "string") {
        throw new PodvmError("unavailable", "the streaming server does not listen");
      }
      const host = bound.family === "IPv6" ? `[${bound.address}]` : bound.address;
      return `http://${host}:${bound.port}/${request.kind}/${tokens.issue(request)}`;
    },
    get load() {
      return { sessions: sessions.size, waiting: tokens.size };
    },
  };
}

const NOT_FOUND =
  "this URL is not known: each is good for one use within a short time after the CRI call that answered it\n";

function takeToken(tokens: Tokens, request: IncomingMessage): StreamRequest | undefined {
  const [, kind = "", token = ""] = PATH.exec((request.url ?? "").split("?", 1)[0] ?? "") ?? [];
  return tokens.take(kind, token);
}
