/** Which backend each pod of a run was given, as the server says. */
import { setTimeout as sleep } from "node:timers/promises";
import { call, connect } from "../../src/cli/client.js";
import type { Spec } from "./report.js";

export interface SeenPod {
  id: string;
  /** "qemu", "host" … */
  vmm: string;
  /** Milliseconds since the epoch. */
  created: number;
}

/** Between looks; a pod lives for longer. */
const everyMs = 250;

export class PodWatch {
  private readonly seen = new Map<string, SeenPod>();
  private stopped = false;
  private readonly done: Promise<void>;

  constructor(socket: string) {
    this.done = this.watch(socket);
  }

  /** Ends the watch. @returns every pod that was there at some time */
  async stop(): Promise<SeenPod[]> {
    this.stopped = true;
    await this.done;
    return [...this.seen.values()];
  }

  private async watch(socket: string): Promise<void> {
    const clients = connect(socket);
    const looks = new Set<string>();
    try {
      while (!this.stopped) {
        const { items } = await call(clients, clients.runtime, "listPodSandbox", { filter: undefined });
        const { containers } = await call(clients, clients.runtime, "listContainers", { filter: undefined });
        for (const { id, createdAt } of items) {
          // The detailed status costs the server some milliseconds. A VM is given up for a host pod only when a container is made.
          const look = `${id} ${containers.filter((container) => container.podSandboxId === id).length}`;
          if (looks.has(look)) continue;
          looks.add(look);
          const request = { podSandboxId: id, verbose: true };
          const answer = await call(clients, clients.runtime, "podSandboxStatus", request).catch(() => undefined);
          if (!answer) continue; // removed meanwhile
          const { vmm } = JSON.parse(answer.info.info ?? "{}") as { vmm?: string };
          this.seen.set(id, { id, vmm: vmm ?? "", created: Number(createdAt / 1_000_000n) });
        }
        await sleep(everyMs);
      }
    } catch (err) {
      // a server that has died is the run's failure, not the watch's
      console.error(`the watch of pods ended: ${err instanceof Error ? err.message : err}`);
    } finally {
      clients.close();
    }
  }
}

/** Specs in whose time a pod without a VM was made. Only of specs that ran one after another can that be told. */
export function hostPodSpecs(specs: Spec[], pods: SeenPod[]): Spec[] {
  const made = pods.filter(({ vmm }) => vmm === "host").map(({ created }) => created);
  return specs.filter(({ began, ended }) => made.some((at) => at >= began && at <= ended));
}
