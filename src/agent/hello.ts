/**
 * How a connection to an agent begins (docs/agent-protocol.md): whatever an earlier connection left in the buffers on the way is thrown
 * away, so that HTTP/2 starts at a byte that both ends agree on.
 */
import { randomBytes } from "node:crypto";
import type { Socket } from "node:net";
import { PodvmError } from "../host/errors.js";

const MAGIC = Buffer.concat([Buffer.alloc(8, 0xff), Buffer.from("PODVMHEL", "latin1")]);
const HELLO_BYTES = 32;
/** Magic and the random part: the same in all hellos of one connection. */
const COMMON_BYTES = 28;
const RESEND_MS = 500;
/** Once the agent has answered an older hello the last one is on its way: only a lost one is worth another. */
const RESEND_ANSWERED_MS = 5000;
/** "OK 1073741824\n" with room. */
const MAX_CONNECT_REPLY = 64;

/**
 * Sends hellos until the last one sent comes back, then leaves the socket paused, what followed the echo unread. Rejects with
 * unavailable when the socket ends, with the signal's reason when that aborts; the socket is then the caller's to destroy.
 */
export async function sayHello(socket: Socket, signal: AbortSignal): Promise<void> {
  const hello = Buffer.concat([MAGIC, randomBytes(12), Buffer.alloc(4)]);
  let count = 0;
  let timer: NodeJS.Timeout | undefined;
  const send = (nextMs: number) => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      count += 1;
      hello.writeUInt32LE(count >>> 0, COMMON_BYTES);
      // A copy: the socket may keep it queued while the counter moves on.
      socket.write(Buffer.from(hello));
      send(nextMs);
    }, nextMs);
  };
  let kept: Buffer = Buffer.alloc(0);
  let answered = false;
  try {
    socket.write(Buffer.from(hello));
    send(RESEND_MS);
    await readUntil(socket, signal, (bytes) => {
      const seen = kept.length > 0 ? Buffer.concat([kept, bytes]) : bytes;
      const at = seen.indexOf(hello);
      if (at >= 0) return seen.subarray(at + HELLO_BYTES);
      if (!answered && seen.includes(hello.subarray(0, COMMON_BYTES))) {
        answered = true;
        send(RESEND_ANSWERED_MS);
      }
      kept = Buffer.from(seen.subarray(Math.max(0, seen.length - HELLO_BYTES + 1)));
      return undefined;
    });
  } finally {
    clearTimeout(timer);
  }
}

/** Firecracker's hybrid vsock: says to which port of the guest this connection shall go. Errors as with `sayHello`. */
export async function connectPort(socket: Socket, port: number, signal: AbortSignal): Promise<void> {
  socket.write(`CONNECT ${port}\n`);
  let reply: Buffer = Buffer.alloc(0);
  await readUntil(socket, signal, (bytes) => {
    reply = Buffer.concat([reply, bytes]);
    const end = reply.indexOf(10);
    const line = reply.subarray(0, end < 0 ? reply.length : end).toString("latin1");
    if (end > MAX_CONNECT_REPLY || (end < 0 && reply.length > MAX_CONNECT_REPLY)) throw refused(port, line);
    if (end < 0) return undefined;
    if (!line.startsWith("OK ")) throw refused(port, line);
    return reply.subarray(end + 1);
  });
}

function refused(port: number, line: string): PodvmError {
  const said = JSON.stringify(line.slice(0, MAX_CONNECT_REPLY));
  return new PodvmError(
    "unavailable",
    `the VMM did not connect to port ${port} of the guest: wanted "OK", found ${said}`,
  );
}

/**
 * Hands what arrives to `look` until that answers the bytes which it did not use; these are put back, and the socket is paused without
 * listeners of ours.
 */
function readUntil(socket: Socket, signal: AbortSignal, look: (bytes: Buffer) => Buffer | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const done = (err?: unknown) => {
      socket.off("data", onData).off("error", onError).off("close", onClose);
      signal.removeEventListener("abort", onAbort);
      socket.pause();
      if (err === undefined) resolve();
      else reject(err);
    };
    const onData = (bytes: Buffer) => {
      let rest: Buffer | undefined;
      try {
        rest = look(bytes);
      } catch (err) {
        done(err);
        return;
      }
      if (rest === undefined) return;
      done();
      if (rest.length > 0) socket.unshift(rest);
    };
    const onError = (err: Error) =>
      done(new PodvmError("unavailable", `the link broke before the agent answered: ${err.message}`, { cause: err }));
    const onClose = () => done(new PodvmError("unavailable", "the link was closed before the agent answered"));
    const onAbort = () => done(signal.reason);
    if (signal.aborted) {
      reject(signal.reason);
      return;
    }
    socket.on("data", onData).once("error", onError).once("close", onClose);
    signal.addEventListener("abort", onAbort, { once: true });
    socket.resume();
  });
}
