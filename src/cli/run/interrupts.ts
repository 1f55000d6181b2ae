import { constants } from "node:os";
import { Exit } from "../exit.js";

/** SIGINT and SIGTERM of a command that must tidy up: the first asks for an end, the second for an immediate one. */
export class Interrupts {
  readonly #first = new AbortController();
  readonly #second = new AbortController();
  #signal: NodeJS.Signals | undefined;

  constructor() {
    process.on("SIGINT", this.#on).on("SIGTERM", this.#on);
  }

  /** Aborted at the first signal. */
  get first(): AbortSignal {
    return this.#first.signal;
  }

  onFirst(action: () => void): void {
    onAbort(this.#first.signal, action);
  }

  onSecond(action: () => void): void {
    onAbort(this.#second.signal, action);
  }

  /** Throws Exit(128 + signal) after a signal. */
  check(): void {
    if (this.#signal) throw new Exit(128 + constants.signals[this.#signal]);
  }

  close(): void {
    process.off("SIGINT", this.#on).off("SIGTERM", this.#on);
  }

  readonly #on = (signal: NodeJS.Signals): void => {
    if (this.#signal) this.#second.abort();
    this.#signal ??= signal;
    this.#first.abort();
  };
}

function onAbort(signal: AbortSignal, action: () => void): void {
  if (signal.aborted) action();
  else signal.addEventListener("abort", action, { once: true });
}
