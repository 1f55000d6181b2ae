import { messageOf } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import type { AttachRequest, ByteSink, ByteSource, ExecRequest, StreamBackend } from "./session.js";
import { encodeOutcome, type Outcome } from "./status.js";
import type { LatestSize } from "./terminal-size.js";

export type RemoteRequest = ExecRequest | AttachRequest;

/** What a protocol makes of one client for exec and attach. */
export interface RemoteChannels {
  stdin?: ByteSource;
  stdout?: ByteSink;
  stderr?: ByteSink;
  resize: LatestSize;
  /** Aborted when the client is gone. */
  signal: AbortSignal;
  /** True: the outcome is a metav1.Status (v4 and later). */
  jsonStatus: boolean;
  /** Sends the outcome, which may be empty, after all output. */
  sendOutcome(message: Buffer): Promise<void>;
}

/** The client creates its streams one round trip after another; kubelet gives it the same time. */
export const STREAMS_WAIT_MS = 30_000;
/** For a client that has its outcome to close the connection. */
export const FINISH_MS = 2000;

/** Runs the command, then tells how it went, then ends the outputs. Never rejects. */
export async function runRemote(
  backend: StreamBackend,
  request: RemoteRequest,
  channels: RemoteChannels,
  logger: Logger,
): Promise<void> {
  const { stdin, stdout, stderr, resize, signal } = channels;
  const io = {
    ...(stdin && { stdin }),
    ...(stdout && { stdout }),
    ...(stderr && { stderr }),
    resize,
    signal,
  };
  signal.addEventListener("abort", () => resize.end(), { once: true });
  if (signal.aborted) resize.end();
  let outcome: Outcome;
  try {
    if (request.kind === "exec") outcome = { exitCode: await backend.exec(request, io) };
    else {
      await backend.attach(request, io);
      outcome = { exitCode: 0 };
    }
  } catch (error) {
    outcome = { error };
  }
  resize.end();
  if (signal.aborted) {
    logger.debug("streaming: the client went away", { reason: messageOf(signal.reason) });
    return;
  }
  if ("error" in outcome) logger.info(`streaming: ${request.kind} failed`, { error: messageOf(outcome.error) });
  try {
    // First the outcome: clients of v1 do not wait for it once the outputs have ended.
    await channels.sendOutcome(encodeOutcome(outcome, request.kind, channels.jsonStatus));
    await Promise.all([stdout?.end(), stderr?.end()]);
  } catch (err) {
    logger.debug("streaming: the client did not wait for the outcome", { error: messageOf(err) });
  }
}
