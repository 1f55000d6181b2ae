import { once } from "node:events";
import { createServer, type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from "node:http";

export interface Upstream {
  status: number;
  headers: OutgoingHttpHeaders;
  body: Buffer;
}

/** One request in the proxy's hands. */
export interface Exchange {
  request: IncomingMessage;
  response: ServerResponse;
  /** Is it for a blob? (the image configuration is one too) */
  blob: boolean;
  /** How many requests for this path came before. */
  before: number;
  /** What the registry behind answers. */
  upstream(): Promise<Upstream>;
}

export type Fault = (exchange: Exchange) => Promise<boolean> | boolean;

export interface FaultProxy {
  host: string;
  url: string;
  /** "GET /v2/…" of every request, in order. */
  requests: { line: string; headers: IncomingMessage["headers"] }[];
  stop(): Promise<void>;
}

/**
 * A proxy before a real registry. `fault` sees each request first; when it answers true, it has dealt with it. (A fault that wants
 * to stall answers true and does nothing.)
 */
export async function startProxy(upstreamUrl: string, fault: Fault = () => false): Promise<FaultProxy> {
  const requests: FaultProxy["requests"] = [];
  const seen = new Map<string, number>();
  const server = createServer((request, response) => {
    const path = request.url ?? "/";
    requests.push({ line: `${request.method} ${path}`, headers: request.headers });
    const before = seen.get(path) ?? 0;
    seen.set(path, before + 1);
    const upstream = async (): Promise<Upstream> => {
      const headers = new Headers();
      for (const name of ["accept", "range"]) {
        const value = request.headers[name];
        if (typeof value === "string") headers.set(name, value);
      }
      const answer = await fetch(upstreamUrl + path, { headers });
      return {
        status: answer.status,
        headers: Object.fromEntries(answer.headers),
        body: Buffer.from(await answer.arrayBuffer()),
      };
    };
    const blob = path.includes("/blobs/");
    (async () => {
      if (await fault({ request, response, blob, before, upstream })) return;
      const { status, headers, body } = await upstream();
      response.writeHead(status, headers);
      response.end(body);
    })().catch(() => response.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  const host = `127.0.0.1:${address.port}`;
  return {
    host,
    url: `http://${host}`,
    requests,
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

/** Sends the head and the first `bytes` of the body, then breaks the connection. */
export function cut(response: ServerResponse, { status, headers, body }: Upstream, bytes: number): void {
  response.writeHead(status, headers);
  response.write(body.subarray(0, bytes), () => response.destroy());
}
