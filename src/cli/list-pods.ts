import { type Container, ContainerState, type PodSandbox, PodSandboxState } from "../gen/runtime/v1/api.js";
import { PodvmError } from "../host/errors.js";
import { type Clients, call } from "./client.js";
import { withClients } from "./connect.js";
import type { ClientOptions } from "./options.js";
import { age, printJson, shortId, table } from "./output.js";

export interface ListedPod {
  id: string;
  namespace: string;
  name: string;
  uid: string;
  attempt: number;
  state: "ready" | "notready";
  createdNs: bigint;
  handler: string;
  ips: string[];
  /** Process id of the VMM, or of the agent of a pod without one, where it runs. */
  vmPid?: number;
  /** Which backend: "host" is a pod without a virtual machine. */
  vmm?: string;
  memoryMib?: number;
  vcpus?: number;
  /** What the VM costs this machine now: the VMM's proportional set size. */
  hostMemoryPss?: number;
  containers: ListedContainer[];
}

export interface ListedContainer {
  id: string;
  name: string;
  image: string;
  state: string;
  createdNs: bigint;
}

export async function listPods(options: ClientOptions & { all?: boolean; json?: boolean }): Promise<void> {
  await withClients(options, async (clients) => {
    const [{ items }, { containers }] = await Promise.all([
      call(clients, clients.runtime, "listPodSandbox", {}),
      call(clients, clients.runtime, "listContainers", {}),
    ]);
    const shown = items.filter((pod) => options.all || pod.state === PodSandboxState.SANDBOX_READY);
    const pods: ListedPod[] = [];
    for (const pod of shown) {
      const own = containers.filter((one) => one.podSandboxId === pod.id && (options.all || isAlive(one)));
      const listed = await look(clients, pod, own);
      if (listed) pods.push(listed);
    }
    if (options.json) printJson(pods);
    else process.stdout.write(table(head, pods.flatMap(rows)));
  });
}

const head = [
  "POD",
  "NAMESPACE/NAME",
  "STATE",
  "AGE",
  "IP",
  "VMM",
  "PID",
  "HANDLER",
  "CONTAINER",
  "NAME",
  "IMAGE",
  "STATE",
];

function rows(pod: ListedPod): string[][] {
  const first = [
    shortId(pod.id),
    `${pod.namespace}/${pod.name}`,
    pod.state,
    age(pod.createdNs),
    pod.ips[0] ?? "-",
    pod.vmm ?? "-",
    pod.vmPid === undefined ? "-" : String(pod.vmPid),
    pod.handler || "-",
  ];
  if (pod.containers.length === 0) return [[...first, "-", "-", "-", "-"]];
  return pod.containers.map((container, index) => [
    ...(index === 0 ? first : first.map(() => "")),
    shortId(container.id),
    container.name,
    container.image,
    container.state,
  ]);
}

const isAlive = (container: Container) => container.state !== ContainerState.CONTAINER_EXITED;

/** Undefined where the pod went away since it was listed. */
async function look(clients: Clients, pod: PodSandbox, containers: Container[]): Promise<ListedPod | undefined> {
  const request = { podSandboxId: pod.id, verbose: true };
  const answer = await call(clients, clients.runtime, "podSandboxStatus", request).catch((err) => {
    if (err instanceof PodvmError && err.code === "not_found") return undefined;
    throw err;
  });
  if (!answer) return undefined;
  const network = answer.status?.network;
  const ips = network ? [network.ip, ...network.additionalIps.map((more) => more.ip)].filter(Boolean) : [];
  return {
    id: pod.id,
    namespace: pod.metadata?.namespace ?? "",
    name: pod.metadata?.name ?? "",
    uid: pod.metadata?.uid ?? "",
    attempt: pod.metadata?.attempt ?? 0,
    state: pod.state === PodSandboxState.SANDBOX_READY ? "ready" : "notready",
    createdNs: pod.createdAt,
    handler: pod.runtimeHandler,
    ips,
    ...vmInfo(answer.info),
    containers: containers.map((one) => ({
      id: one.id,
      name: one.metadata?.name ?? "",
      image: one.image?.userSpecifiedImage || one.image?.image || one.imageRef,
      state: stateNames[one.state] ?? "unknown",
      createdNs: one.createdAt,
    })),
  };
}

const stateNames: Partial<Record<ContainerState, string>> = {
  [ContainerState.CONTAINER_CREATED]: "created",
  [ContainerState.CONTAINER_RUNNING]: "running",
  [ContainerState.CONTAINER_EXITED]: "exited",
};

type VmInfo = Pick<ListedPod, "vmPid" | "vmm" | "memoryMib" | "vcpus" | "hostMemoryPss">;

/** What the verbose status says of the VM: its "info" value is JSON. Another runtime's says something else. */
export function vmInfo(info: Record<string, string>): VmInfo {
  let said: Record<string, unknown>;
  try {
    said = JSON.parse(info.info ?? "{}") as Record<string, unknown>;
  } catch {
    return {};
  }
  const out: VmInfo = {};
  const positive = (value: unknown): value is number => typeof value === "number" && value > 0;
  if (positive(said.pid)) out.vmPid = said.pid;
  if (typeof said.vmm === "string") out.vmm = said.vmm;
  if (positive(said.memoryMib)) out.memoryMib = said.memoryMib;
  if (positive(said.vcpus)) out.vcpus = said.vcpus;
  if (positive(said.hostMemoryPss)) out.hostMemoryPss = said.hostMemoryPss;
  return out;
}
