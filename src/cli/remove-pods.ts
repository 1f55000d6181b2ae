import type { PodSandbox } from "../gen/runtime/v1/api.js";
import { PodvmError } from "../host/errors.js";
import { call } from "./client.js";
import { withClients } from "./connect.js";
import type { ClientOptions } from "./options.js";

export async function removePods(names: string[], options: ClientOptions): Promise<void> {
  await withClients(options, async (clients) => {
    const { items } = await call(clients, clients.runtime, "listPodSandbox", {});
    const ids = names.map((name) => pick(items, name).id); // all of them are known before the first goes
    for (const id of new Set(ids)) {
      await call(clients, clients.runtime, "stopPodSandbox", { podSandboxId: id }, 120_000);
      await call(clients, clients.runtime, "removePodSandbox", { podSandboxId: id }, 120_000);
      process.stdout.write(`${id}\n`);
    }
  });
}

type Named = Pick<PodSandbox, "id" | "metadata">;

/** The one pod that an id's beginning, a name, or namespace/name means. */
export function pick<Pod extends Named>(pods: Pod[], wanted: string): Pod {
  const names = (pod: Pod) => [pod.metadata?.name, `${pod.metadata?.namespace}/${pod.metadata?.name}`];
  const byName = pods.filter((pod) => names(pod).includes(wanted));
  const found = byName.length > 0 ? byName : pods.filter((pod) => pod.id.startsWith(wanted) && wanted.length >= 4);
  if (found.length === 1 && found[0]) return found[0];
  if (found.length === 0) {
    throw new PodvmError(
      "not_found",
      `pod ${wanted}: wanted an id (4 digits or more), NAME or NAMESPACE/NAME, found no such pod; see \`podvm ps -a\``,
    );
  }
  const ids = found.slice(0, 5).map((pod) => pod.id.slice(0, 12));
  throw new PodvmError(
    "invalid_argument",
    `pod ${wanted}: wanted one pod, found ${found.length} (${ids.join(", ")}); give an id`,
  );
}
