import { PodvmError } from "./errors.js";

/** One deadline shared by the steps of a piece of work. */
export class Budget {
  readonly #end: number;
  readonly #what: string;

  /** @param what names the work in the error: "CNI ADD" */
  constructor(ms: number, what: string) {
    this.#end = performance.now() + ms;
    this.#what = what;
  }

  /** Milliseconds left for the next step. Throws deadline_exceeded when there are none. */
  left(): number {
    const left = this.#end - performance.now();
    if (left <= 0) throw new PodvmError("deadline_exceeded", `${this.#what}: no time left for the next step`);
    return left;
  }
}
