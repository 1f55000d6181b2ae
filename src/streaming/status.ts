import { messageOf } from "../host/errors.js";

/** How a command ended: by itself with a code, or not at all as it should. */
export type Outcome = { exitCode: number } | { error: unknown };

/**
 * The last message on the error stream, as kubelet and client-go read it (k8s.io/apimachinery remotecommand). From v4 on it is a
 * metav1.Status in JSON, always sent; before it is plain text, and none at all after success.
 */
export function encodeOutcome(outcome: Outcome, what: "exec" | "attach", asJson: boolean): Buffer {
  const status = statusOf(outcome, what);
  if (asJson) return Buffer.from(JSON.stringify(status));
  return Buffer.from(status.status === "Success" ? "" : (status.message ?? ""));
}

interface Status {
  metadata: Record<string, never>;
  status: "Success" | "Failure";
  message?: string;
  reason?: string;
  details?: { causes: { reason: string; message: string }[] };
  code?: number;
}

/** Clients read at most some KiB of an error. */
const MAX_MESSAGE = 4096;

function statusOf(outcome: Outcome, what: string): Status {
  if ("error" in outcome) {
    const verb = what === "exec" ? "executing command in" : "attaching to";
    const message = `error ${verb} container: ${messageOf(outcome.error)}`.slice(0, MAX_MESSAGE);
    return {
      metadata: {},
      status: "Failure",
      message: `Internal error occurred: ${message}`,
      reason: "InternalError",
      details: { causes: [{ reason: "", message }] },
      code: 500,
    };
  }
  const { exitCode } = outcome;
  if (exitCode === 0) return { metadata: {}, status: "Success" };
  return {
    metadata: {},
    status: "Failure",
    message: `command terminated with non-zero exit code: exit status ${exitCode}`,
    reason: "NonZeroExitCode",
    details: { causes: [{ reason: "ExitCode", message: String(exitCode) }] },
  };
}
