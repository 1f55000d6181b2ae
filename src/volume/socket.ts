/** UNIX sockets of the host, forwarded one connection at a time: only those that the configuration allows. */
import { realpath } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import type { Agent } from "../agent/client.js";
import type { DialStream } from "../agent/streams.js";
import { sleep } from "../host/deadline.js";
import { messageOf, PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import type { MountConfig } from "../pod/types.js";
import type { HostSource } from "./source.js";
import type { VolumeChoice } from "./types.js";

/** Connections at a time through one socket. */
const MAX_CONNECTIONS = 128;
const CONNECT_MS = 10_000;
const AGENT_MS = 60_000;
const PAUSE_MS = 1_000;

export async function socketVolume(
  mount: MountConfig,
  source: HostSource,
  allowed: readonly string[],
): Promise<VolumeChoice> {
  const real = await Promise.all(allowed.map((path) => realpath(path).catch(() => path)));
  if (!real.includes(source.path)) {
    throw new PodvmError(
      "failed_precondition",
      `mount ${mount.containerPath}: ${source.path} is a socket, which gives a pod a way to the host; to allow it put it into policy.sockets of the configuration`,
    );
  }
  const { path, mode, uid, gid } = source;
  return { key: `socket:${path}`, spec: { kind: "socket", source: path, mode, uid, gid }, subPath: "" };
}

export interface ForwardOptions {
  volumeId: string;
  /** The host's socket. */
  path: string;
  agent(deadlineMs: number): Promise<Agent>;
  signal: AbortSignal;
  logger: Logger;
}

/** Takes one connection after the other until the signal is aborted. */
export async function forwardSocket(options: ForwardOptions): Promise<void> {
  const { signal, logger, volumeId } = options;
  let open = 0;
  while (!signal.aborted) {
    try {
      if (open >= MAX_CONNECTIONS) {
        await sleep(PAUSE_MS);
        continue;
      }
      const guest = (await options.agent(AGENT_MS)).acceptSocket(volumeId);
      const cancel = () => guest.cancel();
      signal.addEventListener("abort", cancel, { once: true });
      const first = await guest.next().finally(() => signal.removeEventListener("abort", cancel));
      if (!first) throw new PodvmError("internal", "the agent ended the call before anybody had connected");
      open++;
      void carry(options, guest)
        .catch((err) =>
          logger.debug("a connection through a socket broke", { volume: volumeId, error: messageOf(err) }),
        )
        .finally(() => open--);
    } catch (err) {
      if (signal.aborted) return;
      logger.debug("a socket waits for the agent", { volume: volumeId, error: messageOf(err) });
      await sleep(PAUSE_MS);
    }
  }
}

async function carry({ path, signal }: ForwardOptions, guest: DialStream): Promise<void> {
  const socket = connect({ path, allowHalfOpen: true });
  const cut = () => socket.destroy();
  signal.addEventListener("abort", cut, { once: true });
  try {
    await connected(socket);
    await Promise.all([toHost(guest, socket), toGuest(socket, guest)]);
  } finally {
    signal.removeEventListener("abort", cut);
    guest.cancel();
    socket.destroy();
  }
}

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.setTimeout(CONNECT_MS, () => socket.destroy(new Error(`not connected within ${CONNECT_MS} ms`)));
    socket.once("connect", () => {
      socket.setTimeout(0);
      resolve();
    });
    socket.once("error", reject);
  });
}

/** Until the agent ends the call, which it does when it has passed on all of both directions: cut earlier, the last bytes would be lost. */
async function toHost(guest: DialStream, socket: Socket): Promise<void> {
  for (;;) {
    const message = await guest.next();
    if (!message) return;
    if (message.eof) socket.end();
    else if (!socket.write(message.data)) await drained(socket);
  }
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    const closed = () => reject(new Error("the host's end closed"));
    socket.once("close", closed);
    socket.once("drain", () => {
      socket.off("close", closed);
      resolve();
    });
  });
}

async function toGuest(socket: Socket, guest: DialStream): Promise<void> {
  for await (const data of socket as AsyncIterable<Buffer>) {
    for (let at = 0; at < data.length; at += 65536) await guest.write(data.subarray(at, at + 65536));
  }
  guest.closeWrite();
}
