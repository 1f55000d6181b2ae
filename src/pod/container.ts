import type { OutputPump } from "../agent/output-pump.js";
import { PodvmError } from "../host/errors.js";
import type { ContainerDocument } from "./types.js";

/** A container as the server holds it: the document, the pump that carries its output into the log, and who waits for its end. */
export class Container {
  pump: OutputPump | undefined;
  private readonly waiters = new Set<() => void>();

  constructor(readonly document: ContainerDocument) {}

  get id(): string {
    return this.document.id;
  }

  get running(): boolean {
    return this.document.state === "running";
  }

  get exited(): boolean {
    return this.document.state === "exited";
  }

  /** True when the container has exited, at once or within the time. */
  async waitExit(ms: number): Promise<boolean> {
    if (this.exited) return true;
    return new Promise((resolve) => {
      const done = (exited: boolean) => {
        clearTimeout(timer);
        this.waiters.delete(onExit);
        resolve(exited);
      };
      const onExit = () => done(true);
      const timer = setTimeout(() => done(false), Math.min(ms, 2 ** 31 - 1));
      this.waiters.add(onExit);
    });
  }

  announceExit(): void {
    for (const waiter of [...this.waiters]) waiter();
  }

  wrongState(wanted: string): PodvmError {
    return new PodvmError(
      "failed_precondition",
      `container ${this.id}: wanted it ${wanted}, it is ${this.document.state}`,
    );
  }
}
