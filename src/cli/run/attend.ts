import { constants } from "node:os";
import { ContainerState, type ContainerStatus } from "../../gen/runtime/v1/api.js";
import { sleep } from "../../host/deadline.js";
import { errno, PodvmError } from "../../host/errors.js";
import { type Clients, call } from "../client.js";
import { Exit, exitCodes } from "../exit.js";
import { printable } from "../output.js";
import { followLog } from "./follow.js";
import type { Interrupts } from "./interrupts.js";
import { standardSinks } from "./sinks.js";

/** Between looks at a running container. */
const pollMs = 100;
/** What a container gets to end after a signal: Kubernetes' own grace. */
const graceSeconds = 30;

/**
 * Copies a running container's output until it has ended; answers its exit code, or 124 where `timeoutSeconds` passed first. A signal to this
 * process stops the container, a second one kills it. Rejects when the server goes away or the output cannot be written.
 */
export async function attend(
  clients: Clients,
  containerId: string,
  log: string,
  timeoutSeconds: number | undefined,
  interrupts: Interrupts,
): Promise<number> {
  let ended = false;
  let timedOut = false;
  const failed = new AbortController();
  const stop = (seconds: number) => {
    const request = { containerId, timeout: BigInt(seconds) };
    call(clients, clients.runtime, "stopContainer", request, (seconds + 30) * 1000).catch((err) => failed.abort(err));
  };
  interrupts.onFirst(() => stop(graceSeconds));
  interrupts.onSecond(() => stop(0));
  const onTimeout = () => {
    timedOut = true;
    stop(0);
  };
  const timer = timeoutSeconds === undefined ? undefined : setTimeout(onTimeout, timeoutSeconds * 1000);
  const output = followLog(log, standardSinks(), () => ended || failed.signal.aborted);
  output.catch((err) => failed.abort(err));
  try {
    for (;;) {
      const { status } = await call(clients, clients.runtime, "containerStatus", { containerId, verbose: false });
      if (status?.state === ContainerState.CONTAINER_EXITED) {
        ended = true;
        await output;
        explain(status);
        return timedOut ? exitCodes.timedOut : status.exitCode;
      }
      if (failed.signal.aborted) throw asError(failed.signal.reason);
      await sleep(pollMs);
    }
  } finally {
    ended = true;
    clearTimeout(timer);
    await output.catch(() => {}); // told already, as the error of the loop
  }
}

/** Why it ended, where the exit code alone does not tell. */
function explain(status: ContainerStatus): void {
  if (status.reason === "Completed" || status.reason === "Error") return;
  const said = [status.reason, status.message].filter(Boolean).join(": ");
  process.stderr.write(`podvm: the container ended: ${printable(said)}\n`);
}

/** A reader that has seen enough (`| head`) is no failure to talk about: the exit code is what SIGPIPE's would be. */
function asError(reason: unknown): Error {
  if (errno(reason) === "EPIPE") return new Exit(128 + constants.signals.SIGPIPE);
  return PodvmError.from(reason);
}
