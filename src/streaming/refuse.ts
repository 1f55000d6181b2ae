import { STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";

/** For a client to read the answer and close. */
const LINGER_MS = 5000;

/**
 * Answers an upgrade request with an error, `text` being for whoever uses the client. Resolves when the connection is closed, by the client
 * or by time. Never rejects.
 */
export async function refuse(
  socket: Duplex,
  status: number,
  text: string,
  headers: Record<string, string> = {},
): Promise<void> {
  if (socket.destroyed) return;
  const body = `${text}\n`;
  const lines = Object.entries({
    "Content-Type": "text/plain; charset=utf-8",
    "Content-Length": String(Buffer.byteLength(body)),
    Connection: "close",
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join("")}\r\n${body}`);
  await new Promise<void>((resolve) => {
    const timer = setTimeout(() => socket.destroy(), LINGER_MS);
    socket.once("close", () => {
      clearTimeout(timer);
      resolve();
    });
    socket.once("end", () => socket.destroy());
    socket.resume();
  });
}
