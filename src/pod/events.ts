import type { Container } from "./container.js";
import type { Pod } from "./pod.js";
import { type Nanoseconds, nowNs } from "./types.js";

export type ContainerEventType = "created" | "started" | "stopped" | "deleted";

/** Something happened to a container, or (where `container` is absent) to the sandbox itself. */
export interface ContainerEvent {
  type: ContainerEventType;
  atNs: Nanoseconds;
  pod: Pod;
  container?: Container;
}

/**
 * What happens to pods and containers, told at once to whoever listens. A listener must be quick and must not throw: it is called within the
 * change, so that what it reads of the objects is their state at that moment.
 */
export class PodEvents {
  private readonly listeners = new Set<(event: ContainerEvent) => void>();

  get listenerCount(): number {
    return this.listeners.size;
  }

  /** Answers what ends it. */
  listen(listener: (event: ContainerEvent) => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  emit(type: ContainerEventType, pod: Pod | undefined, container?: Container): void {
    if (!pod || this.listeners.size === 0) return;
    const event: ContainerEvent = { type, atNs: nowNs(), pod, ...(container && { container }) };
    for (const listener of [...this.listeners]) listener(event);
  }
}
