/** Exit codes; `podvm --help` lists them. */
export const exitCodes = {
  ok: 0,
  /** The command failed; the message says why. */
  failed: 1,
  /** Wrong use of the command line. */
  usage: 2,
  /** `podvm run`: the deadline of --timeout passed (as timeout(1)). */
  timedOut: 124,
  /** `podvm run`: PodVM failed, not the container (as docker run). */
  runFailed: 125,
} as const;

/** Thrown by a command to end with a code after it has said itself what there was to say. */
export class Exit extends Error {
  constructor(readonly code: number) {
    super(`exit code ${code}`);
  }
}
