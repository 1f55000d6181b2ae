/** gRPC errors of an agent as PodvmErrors. What the agent says is untrusted text. */
import { type ServiceError, status } from "@grpc/grpc-js";
import { type ErrorCode, PodvmError } from "../host/errors.js";

const CODES: Partial<Record<status, ErrorCode>> = {
  [status.INVALID_ARGUMENT]: "invalid_argument",
  [status.NOT_FOUND]: "not_found",
  [status.ALREADY_EXISTS]: "already_exists",
  [status.FAILED_PRECONDITION]: "failed_precondition",
  [status.OUT_OF_RANGE]: "failed_precondition",
  [status.RESOURCE_EXHAUSTED]: "resource_exhausted",
  [status.DEADLINE_EXCEEDED]: "deadline_exceeded",
  [status.UNAVAILABLE]: "unavailable",
  [status.ABORTED]: "unavailable",
  [status.UNIMPLEMENTED]: "unimplemented",
  [status.CANCELLED]: "cancelled",
};

const MAX_SAID = 2000;

/** `call` names what was asked, for the message. The gRPC error is the cause. */
export function fromGrpc(err: unknown, call: string): PodvmError {
  if (err instanceof PodvmError) return err;
  const code = grpcCode(err);
  if (code === undefined) return PodvmError.from(err);
  const said = printable((err as ServiceError).details ?? "", MAX_SAID);
  return new PodvmError(CODES[code] ?? "internal", `agent: ${call}: ${said || status[code]}`, { cause: err });
}

/** The gRPC status behind an error, or undefined where it is none of gRPC's. */
export function grpcCode(err: unknown): status | undefined {
  if (err instanceof PodvmError) return err.cause === undefined ? undefined : grpcCode(err.cause);
  if (!(err instanceof Error) || !("code" in err) || !("details" in err)) return undefined;
  return typeof err.code === "number" ? err.code : undefined;
}

/** Guest text fit for a log line or an error message: control characters (terminal escapes, line breaks) replaced, length bounded. */
export function printable(text: string, max: number): string {
  const cut = text.length > max ? `${text.slice(0, max)}…` : text;
  return cut.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (c) => (c === "\n" || c === "\t" ? " " : "\ufffd"));
}
