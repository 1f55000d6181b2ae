import type { Logger } from "./log.js";

/**
 * The undo steps of a creation, registered right after each step. `rollback` runs them last first, each even when another
 * failed, and answers the failures: the caller keeps a record of what is left and retries; it must not swallow them.
 */
export class UndoStack {
  private readonly steps: { what: string; undo: () => Promise<void> }[] = [];

  constructor(private readonly logger: Logger) {}

  add(what: string, undo: () => Promise<void>): void {
    this.steps.push({ what, undo });
  }

  async rollback(): Promise<Error[]> {
    const failures: Error[] = [];
    for (let step = this.steps.pop(); step; step = this.steps.pop()) {
      try {
        await step.undo();
      } catch (err) {
        this.logger.warn(`undo failed: ${step.what}`, { err });
        failures.push(err instanceof Error ? err : new Error(String(err)));
      }
    }
    return failures;
  }
}
