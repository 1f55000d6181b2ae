import type { Agent } from "../agent/client.js";
import type { AgentSession } from "../agent/session.js";
import { sleep } from "../host/deadline.js";
import { hasCode, PodvmError } from "../host/errors.js";
import type { Vm, VmSize } from "../vmm/vmm.js";
import type { PodVolumes } from "../volume/pod-volumes.js";
import type { PodDocument } from "./types.js";

const RETRY_MS = 100;

/** A pod sandbox as the server holds it: the document, and while it is up its VM and the session with its agent. */
export class Pod {
  vm: Vm | undefined;
  session: AgentSession | undefined;
  volumes: PodVolumes | undefined;

  constructor(readonly document: PodDocument) {}

  get id(): string {
    return this.document.id;
  }

  get ready(): boolean {
    return this.document.phase === "ready";
  }

  /** Memory and CPUs that the VM is to have now. */
  get size(): VmSize {
    const { size, vm } = this.document;
    return size ?? { memoryMib: vm.memoryMib, vcpus: vm.vcpus };
  }

  /** The connected agent; failed_precondition when the sandbox is not ready, unavailable when its agent does not answer in time. */
  async agent(deadlineMs: number): Promise<Agent> {
    if (!this.ready || !this.session) throw this.notReady();
    return this.session.agent(deadlineMs);
  }

  /**
   * One call of the agent, at most `deadlineMs` in all: `work` is told how much of it is left. Every mutating call is idempotent by id (agent.proto), so one that a broken
   * connection cut short is made again on the next connection.
   */
  async call<T>(work: (agent: Agent, deadlineMs: number) => Promise<T>, deadlineMs: number): Promise<T> {
    const end = performance.now() + deadlineMs;
    const left = () => Math.max(end - performance.now(), 1);
    for (;;) {
      try {
        const agent = await this.agent(left());
        return await work(agent, left());
      } catch (err) {
        if (!this.ready) throw this.notReady();
        if (!hasCode(err, "unavailable") || left() <= RETRY_MS) throw err;
        await sleep(RETRY_MS); // a guest that answers "unavailable" at once must not keep the server busy
      }
    }
  }

  notReady(): PodvmError {
    const why = this.document.message ? `: ${this.document.message}` : "";
    return new PodvmError("failed_precondition", `pod sandbox ${this.id} is not ready${why}`);
  }
}
