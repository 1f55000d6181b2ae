import { PodvmError } from "../host/errors.js";
import type { Container } from "./container.js";
import type { Pod } from "./pod.js";

/** All pods and containers in memory, by id and by name. */
export class PodRegistry {
  private readonly podsById = new Map<string, Pod>();
  private readonly containersById = new Map<string, Container>();
  private readonly names = new Map<string, string>();

  addPod(pod: Pod): void {
    this.reserve(podName(pod.document.config), pod.id);
    this.podsById.set(pod.id, pod);
  }

  deletePod(pod: Pod): void {
    this.podsById.delete(pod.id);
    this.names.delete(podName(pod.document.config));
  }

  addContainer(container: Container): void {
    this.reserve(containerName(container), container.id);
    this.containersById.set(container.id, container);
  }

  deleteContainer(container: Container): void {
    this.containersById.delete(container.id);
    this.names.delete(containerName(container));
  }

  pods(): Pod[] {
    return [...this.podsById.values()];
  }

  containers(): Container[] {
    return [...this.containersById.values()];
  }

  containersOf(podId: string): Container[] {
    return this.containers().filter((container) => container.document.podId === podId);
  }

  findPod(id: string): Pod | undefined {
    return find(this.podsById, id, "pod sandbox");
  }

  findContainer(id: string): Container | undefined {
    return find(this.containersById, id, "container");
  }

  /** What a guest names: only a container of its own pod, by its whole id. */
  containerOf(podId: string, id: string): Container | undefined {
    const container = this.containersById.get(id);
    return container?.document.podId === podId ? container : undefined;
  }

  pod(id: string): Pod {
    const pod = this.findPod(id);
    if (!pod) throw new PodvmError("not_found", `there is no pod sandbox ${shown(id)}`);
    return pod;
  }

  container(id: string): Container {
    const container = this.findContainer(id);
    if (!container) throw new PodvmError("not_found", `there is no container ${shown(id)}`);
    return container;
  }

  private reserve(name: string, id: string): void {
    const holder = this.names.get(name);
    if (holder !== undefined && holder !== id) {
      throw new PodvmError(
        "already_exists",
        `the name ${name} is in use by ${holder}; remove that one first, or raise the attempt`,
      );
    }
    this.names.set(name, id);
  }
}

/** By whole id, or by a prefix that only one has: people type the first 13 digits, as crictl prints them. */
function find<T>(objects: Map<string, T>, id: string, what: string): T | undefined {
  if (id === "") throw new PodvmError("invalid_argument", `wanted the id of a ${what}, found nothing`);
  const exact = objects.get(id);
  if (exact || id.length >= 64) return exact;
  const matches = [...objects.keys()].filter((key) => key.startsWith(id));
  if (matches.length > 1) {
    throw new PodvmError(
      "invalid_argument",
      `${shown(id)} is the beginning of ${matches.length} ids of a ${what}: give more of it`,
    );
  }
  return matches[0] === undefined ? undefined : objects.get(matches[0]);
}

function shown(id: string): string {
  return JSON.stringify(id.slice(0, 80));
}

/** CRI: a sandbox is named by its metadata; the same name again means the same sandbox. */
export function podName(config: { name: string; namespace: string; uid: string; attempt: number }): string {
  return `${config.name}_${config.namespace}_${config.uid}_${config.attempt}`;
}

function containerName(container: Container): string {
  const { config, podId } = container.document;
  return `${config.name}_${podId}_${config.attempt}`;
}
