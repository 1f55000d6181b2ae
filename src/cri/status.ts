/** Errors to gRPC statuses: the only place where that is decided. */
import { status } from "@grpc/grpc-js";
import { type ErrorCode, PodvmError } from "../host/errors.js";

const STATUS: Record<ErrorCode, status> = {
  invalid_argument: status.INVALID_ARGUMENT,
  not_found: status.NOT_FOUND,
  already_exists: status.ALREADY_EXISTS,
  failed_precondition: status.FAILED_PRECONDITION,
  permission_denied: status.PERMISSION_DENIED,
  unauthenticated: status.UNAUTHENTICATED,
  resource_exhausted: status.RESOURCE_EXHAUSTED,
  deadline_exceeded: status.DEADLINE_EXCEEDED,
  unavailable: status.UNAVAILABLE,
  unimplemented: status.UNIMPLEMENTED,
  cancelled: status.CANCELLED,
  internal: status.INTERNAL,
};

/** Characters of an error's message that go to the client: HTTP/2 trailers share 16 KiB, and percent-encoding may triple it. */
const MAX_DETAILS = 4096;

export interface GrpcStatus {
  code: status;
  details: string;
}

/** What the client is told about anything thrown. An abort that no one translated counts as the client's cancellation. */
export function toStatus(err: unknown): GrpcStatus {
  const known = isAbort(err)
    ? new PodvmError("cancelled", "the call was cancelled", { cause: err })
    : PodvmError.from(err);
  const said = known.message || known.code;
  const details = said.length > MAX_DETAILS ? `${said.slice(0, MAX_DETAILS)}…` : said;
  return { code: STATUS[known.code], details };
}

/** "NOT_FOUND" … */
export function statusName(code: status): string {
  return status[code] ?? String(code);
}

function isAbort(err: unknown): boolean {
  return err instanceof Error && err.name === "AbortError" && !(err instanceof PodvmError);
}
