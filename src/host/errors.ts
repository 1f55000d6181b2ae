/**
 * The one error class of PodVM. `code` is stable and decides the gRPC status (in `src/cri/status.ts`, nowhere else);
 * the message says what was wanted, what was found and what to do. The cause is kept.
 */
export type ErrorCode =
  | "invalid_argument"
  | "not_found"
  | "already_exists"
  | "failed_precondition"
  | "permission_denied"
  | "unauthenticated"
  | "resource_exhausted"
  | "deadline_exceeded"
  | "unavailable"
  | "unimplemented"
  | "cancelled"
  | "internal";

export class PodvmError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = "PodvmError";
    this.code = code;
  }

  /** Anything thrown, as a PodvmError; the original is kept as the cause. */
  static from(err: unknown): PodvmError {
    if (err instanceof PodvmError) return err;
    if (err instanceof Error) return new PodvmError("internal", err.message, { cause: err });
    return new PodvmError("internal", String(err));
  }
}

export function hasCode(err: unknown, code: ErrorCode): boolean {
  return err instanceof PodvmError && err.code === code;
}

/** Node's `err.code` ("ENOENT" …), or undefined. */
export function errno(err: unknown): string | undefined {
  return err instanceof Error ? (err as NodeJS.ErrnoException).code : undefined;
}

export function messageOf(err: unknown): string {
  return err instanceof Error ? err.message : String(err);
}
