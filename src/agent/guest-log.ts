/** The agent's log lines in the server's log: untrusted text, so cleaned, and at a bounded rate. */
import type { LogRecord } from "../gen/agent/v1/agent.js";
import type { Logger } from "../host/log.js";
import { printable } from "./errors.js";

const BURST = 200;
const PER_SECOND = 20;

export class GuestLog {
  /** Sequence number of the last record taken. */
  lastSeq = 0n;
  readonly #logger: Logger;
  #tokens = BURST;
  #refilled = Date.now();
  #dropped = 0;

  constructor(logger: Logger) {
    this.#logger = logger.child({ from: "guest" });
  }

  take(record: LogRecord): void {
    if (record.seq <= this.lastSeq) return;
    this.lastSeq = record.seq;
    if (!this.#allowed()) {
      this.#dropped += 1;
      return;
    }
    if (this.#dropped > 0) {
      this.#logger.warn("the guest logs too much: lines were dropped", { dropped: this.#dropped });
      this.#dropped = 0;
    }
    const fields = { guestTime: new Date(Number(record.timeNs / 1_000_000n)).toISOString() };
    const message = printable(record.message, 2000);
    // A guest's "error" is no error of the server: it may say what it likes, but not raise alarms.
    if (record.level === "error" || record.level === "warn") this.#logger.warn(message, fields);
    else if (record.level === "info") this.#logger.info(message, fields);
    else this.#logger.debug(message, fields);
  }

  #allowed(): boolean {
    const now = Date.now();
    this.#tokens = Math.min(BURST, this.#tokens + ((now - this.#refilled) * PER_SECOND) / 1000);
    this.#refilled = now;
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}
