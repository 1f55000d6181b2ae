import { hasCode, PodvmError } from "../host/errors.js";
import type { PodContext } from "./context.js";

/**
 * Of both streams together: kubelet and crictl take messages of at most 16 MiB, and CRI says: "The runtime should cap the output of this
 * response to 16MB." What is beyond is dropped, and the command is none the wiser.
 */
export const MAX_OUTPUT = (16 << 20) - 4096;
/** Beside the command's own time: to start it, kill it, and carry up to 32 MiB of output. */
const SLACK_MS = 60_000;
const EXIT_MS = 2_000;
/** CRI: 0 is "run forever"; forever is bounded by the client, whose cancellation ends the call, and by this. */
const FOREVER_MS = 24 * 3600 * 1000;

/**
 * CRI ExecSync. Rejects with deadline_exceeded when the command was killed at its time-out (kubelet's probes tell that from a failure by
 * the code). A command that cannot be found answers 127, as a shell would.
 */
export async function execSync(
  ctx: PodContext,
  id: string,
  args: string[],
  timeoutSeconds: number,
  signal?: AbortSignal,
): Promise<{ stdout: Buffer; stderr: Buffer; exitCode: number }> {
  if (args.length === 0) throw new PodvmError("invalid_argument", "cmd: wanted a command, found nothing");
  const container = ctx.registry.container(id);
  if (!container.running) throw container.wrongState("running");
  const pod = ctx.registry.pod(container.document.podId);
  const timeoutMs = timeoutSeconds * 1000;
  const agent = await pod.agent(SLACK_MS);
  // Not repeated on a broken connection: the command may have run.
  const running = agent.execSync(
    { containerId: container.id, args, timeoutMs, maxOutputBytes: MAX_OUTPUT },
    { deadlineMs: (timeoutMs || FOREVER_MS) + SLACK_MS, ...(signal && { signal }) },
  );
  const result = await running.catch(async (err: unknown) => {
    // It ended as the command began: crun's complaint is no error of ours. Its end may be told a moment later.
    if (hasCode(err, "internal") && (await container.waitExit(EXIT_MS))) throw container.wrongState("running");
    throw err;
  });
  if (result.timedOut) {
    throw new PodvmError(
      "deadline_exceeded",
      `command ${JSON.stringify(args[0])} timed out after ${timeoutSeconds} s and was killed`,
    );
  }
  const { stdout, stderr, exitCode } = result;
  return { stdout, stderr: stderr.subarray(0, MAX_OUTPUT - stdout.length), exitCode };
}
