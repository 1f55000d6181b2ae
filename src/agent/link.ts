/**
 * A gRPC connection over the one byte stream that leads into a VM. grpc-js dials the unix socket itself; the handshake is done in
 * channel credentials of our own (`_createSecureConnector` is not public API: hence the pinned version of grpc-js).
 *
 * One channel makes one connection: when that is gone, it is gone, and whoever holds the agent decides what to do (`AgentSession`).
 */
import { existsSync } from "node:fs";
import type { Socket } from "node:net";
import {
  CallCredentials,
  ChannelCredentials,
  type ChannelInterface,
  type ChannelOptions,
  connectivityState,
} from "@grpc/grpc-js";
import { AgentClient } from "../gen/agent/v1/agent.js";
import { PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import type { LinkAddress } from "../vmm/vmm.js";
import { type Agent, GrpcAgent } from "./client.js";
import { connectPort, sayHello } from "./hello.js";

/** Both directions; the agent's own limit is the same. */
const MAX_MESSAGE_BYTES = 20 << 20;

const OPTIONS: ChannelOptions = {
  "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
  "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
  "grpc-node.flow_control_window": 1 << 20,
  // A loaded machine under TCG may leave a guest without a processor for seconds: patience before it is given up.
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 20_000,
  "grpc.keepalive_permit_without_calls": 1,
  "grpc.client_idle_timeout_ms": 2 ** 31 - 1,
  "grpc.enable_retries": 0,
  "grpc.service_config_disable_resolution": 1,
  "grpc.enable_http_proxy": 0,
  // A subchannel shared with an earlier agent of the same path would share its dead connection.
  "grpc.use_local_subchannel_pool": 1,
  // While connecting: the socket may not be there yet.
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 1000,
};

export interface ConnectOptions {
  /** Milliseconds for socket, handshake and HTTP/2 settings together. A VM that still boots answers late: 60 s is not too much. */
  deadlineMs: number;
  logger: Logger;
  /** Gives up early. */
  signal?: AbortSignal;
}

/**
 * Connects to the agent behind `address`. The caller closes what it gets. Rejects with unavailable, naming the last failure, when
 * the deadline passes; with cancelled on abort.
 */
export async function connectAgent(address: LinkAddress, options: ConnectOptions): Promise<Agent> {
  const { deadlineMs, signal } = options;
  const link = new LinkCredentials(address);
  const client = new AgentClient(`unix:${address.path}`, link, OPTIONS);
  const giveUp = () => {
    client.close();
    link.cut();
  };
  try {
    await ready(client.getChannel(), Date.now() + deadlineMs, signal);
  } catch (err) {
    giveUp();
    throw err instanceof PodvmError ? err : noAgent(address, deadlineMs, link);
  }
  options.logger.debug("connected to the agent", { socket: address.path });
  return new GrpcAgent(client, link.closed, giveUp);
}

/**
 * Resolves when the channel is connected; rejects at the deadline, and with cancelled on abort. Not `Client.waitForReady`: a channel that
 * is closed while that waits is told to connect once more, and then dials for ever.
 */
function ready(channel: ChannelInterface, deadline: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    let settled = false;
    const done = (settle: () => void) => {
      settled = true;
      signal?.removeEventListener("abort", onAbort);
      settle();
    };
    const onAbort = () => done(() => reject(new PodvmError("cancelled", "connecting to the agent: cancelled")));
    const check = (err?: Error) => {
      if (settled) return;
      if (err) {
        done(() => reject(err));
        return;
      }
      const state = channel.getConnectivityState(true);
      if (state === connectivityState.READY) done(resolve);
      else channel.watchConnectivityState(state, deadline, check);
    };
    signal?.addEventListener("abort", onAbort, { once: true });
    if (signal?.aborted) onAbort();
    check();
  });
}

function noAgent(address: LinkAddress, deadlineMs: number, link: LinkCredentials): PodvmError {
  let why = existsSync(address.path) ? "nobody has accepted on the socket" : "there is no such socket";
  if (link.lastError) why = link.lastError.message;
  if (link.handshaking) {
    const before = link.lastError ? `; before that: ${link.lastError.message}` : "";
    why = `the VMM takes the connection, but the guest does not answer (still booting, or hung)${before}`;
  }
  return new PodvmError(
    "unavailable",
    `no agent on ${address.path} within ${deadlineMs} ms: ${why}`,
    link.lastError ? { cause: link.lastError } : undefined,
  );
}

class LinkCredentials extends ChannelCredentials {
  /** Resolves when the connection that carried the agent is gone. */
  readonly closed: Promise<void>;
  lastError: Error | undefined;
  handshaking = false;
  readonly #address: LinkAddress;
  readonly #abort = new AbortController();
  #socket: Socket | undefined;
  #connected = false;
  #onClosed: () => void = () => {};

  constructor(address: LinkAddress) {
    super();
    this.#address = address;
    this.closed = new Promise((resolve) => {
      this.#onClosed = resolve;
    });
  }

  override _isSecure(): boolean {
    return false;
  }

  override _equals(other: ChannelCredentials): boolean {
    return other === this;
  }

  override _createSecureConnector(): ReturnType<ChannelCredentials["_createSecureConnector"]> {
    const noCallCredentials = CallCredentials.createEmpty();
    return {
      connect: (socket) => this.#handshake(socket),
      waitForReady: async () => {},
      getCallCredentials: () => noCallCredentials,
      destroy: () => {},
    };
  }

  /** Ends the connection at once. */
  cut(): void {
    this.#abort.abort(new PodvmError("cancelled", "the link was closed by its owner"));
    this.#socket?.destroy();
    if (!this.#connected) this.#onClosed();
  }

  async #handshake(socket: Socket): Promise<{ socket: Socket; secure: boolean }> {
    // Refusing here keeps a channel from dialling again after its connection broke.
    if (this.#connected) throw new Error("a channel to an agent makes one connection only");
    this.#socket = socket;
    this.handshaking = true;
    try {
      if (this.#address.connectPort !== undefined) {
        await connectPort(socket, this.#address.connectPort, this.#abort.signal);
      }
      await sayHello(socket, this.#abort.signal);
    } catch (err) {
      this.lastError = err instanceof Error ? err : new Error(String(err));
      socket.destroy();
      throw err;
    } finally {
      this.handshaking = false;
    }
    this.#connected = true;
    socket.once("close", () => this.#onClosed());
    if (socket.destroyed) this.#onClosed();
    return { socket, secure: false };
  }
}
