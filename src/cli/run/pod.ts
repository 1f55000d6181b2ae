import type { PodSandboxConfig } from "../../gen/runtime/v1/api.js";
import { type Clients, call } from "../client.js";
import { runLabel } from "./requests.js";

const runMs = 180_000;
const removeMs = 120_000;

/**
 * RunPodSandbox. `made` is told the id of the pod, also where the call failed but left a pod (the server finishes what a client gave up on).
 */
export async function startPod(
  clients: Clients,
  config: PodSandboxConfig,
  runtimeHandler: string,
  made: (podSandboxId: string) => void,
): Promise<string> {
  try {
    const { podSandboxId } = await call(clients, clients.runtime, "runPodSandbox", { config, runtimeHandler }, runMs);
    made(podSandboxId);
    return podSandboxId;
  } catch (err) {
    const labelSelector = { [runLabel]: config.labels[runLabel] ?? "" };
    const left = await call(clients, clients.runtime, "listPodSandbox", { filter: { id: "", labelSelector } }).catch(
      () => undefined,
    );
    for (const pod of left?.items ?? []) made(pod.id);
    throw err;
  }
}

export async function removePod(clients: Clients, podSandboxId: string): Promise<void> {
  await call(clients, clients.runtime, "stopPodSandbox", { podSandboxId }, removeMs);
  await call(clients, clients.runtime, "removePodSandbox", { podSandboxId }, removeMs);
}
