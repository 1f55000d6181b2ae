import type { Container } from "../pod/container.js";
import { createContainer } from "../pod/container-create.js";
import { removeContainer } from "../pod/container-remove.js";
import { startContainer } from "../pod/container-start.js";
import { stopContainer } from "../pod/container-stop.js";
import { updateContainer } from "../pod/container-update.js";
import type { PodContext } from "../pod/context.js";
import { execSync } from "../pod/exec-sync.js";
import { reopenLog } from "../pod/output.js";
import { Parking } from "../pod/parking.js";
import { integer, list, text } from "./checks.js";
import { inBatches, selectContainers } from "./filters.js";
import type { RuntimeHandlers } from "./handlers.js";
import { parseContainer } from "./parse-container.js";
import { parseResources } from "./parse-resources.js";
import { renderContainer, renderContainerStatus } from "./render.js";

type ContainerVerbs = Pick<
  RuntimeHandlers,
  | "createContainer"
  | "startContainer"
  | "stopContainer"
  | "removeContainer"
  | "listContainers"
  | "streamContainers"
  | "containerStatus"
  | "updateContainerResources"
  | "reopenContainerLog"
  | "execSync"
>;

export function containerVerbs(pods: PodContext): ContainerVerbs {
  const parking = new Parking<Container>((container) => pods.registry.findContainer(container.id) === container);
  return {
    async createContainer(request, call) {
      const config = parseContainer(request.config);
      const name = `${config.name}_${request.podSandboxId}_${config.attempt}`;
      const work = () => createContainer(pods, request.podSandboxId, config);
      const container = await parking.run(name, call.signal, work);
      return { containerId: container.id };
    },

    async startContainer(request) {
      await startContainer(pods, request.containerId);
      return {};
    },

    async stopContainer(request) {
      await stopContainer(pods, request.containerId, integer("timeout", request.timeout, -1));
      return {};
    },

    async removeContainer(request) {
      await removeContainer(pods, request.containerId);
      return {};
    },

    async listContainers(request) {
      return { containers: selectContainers(pods.registry, request.filter).map(renderContainer) };
    },

    async *streamContainers(request) {
      for (const batch of inBatches(selectContainers(pods.registry, request.filter))) {
        yield { containers: batch.map(renderContainer) };
      }
    },

    async containerStatus(request) {
      const container = pods.registry.container(request.containerId);
      return {
        status: renderContainerStatus(container, pods.images),
        info: request.verbose ? verboseInfo(container) : {},
      };
    },

    async updateContainerResources(request) {
      await updateContainer(pods, request.containerId, parseResources("linux", request.linux));
      return {};
    },

    async reopenContainerLog(request) {
      await reopenLog(pods, request.containerId);
      return {};
    },

    async execSync(request, call) {
      const command = list("cmd", request.cmd, 4096).map((word) => text("cmd", word, 128 * 1024));
      const seconds = integer("timeout", request.timeout, 0, 1_000_000);
      return execSync(pods, request.containerId, command, seconds, call.signal);
    },
  };
}

function verboseInfo(container: Container): Record<string, string> {
  const { podId, imageId, imageSerial, config, message } = container.document;
  // Not the environment: it holds secrets, and crictl inspect is pasted into tickets.
  const { env: _, ...shown } = config;
  return { info: JSON.stringify({ sandboxID: podId, imageId, imageSerial, config: shown, message }) };
}
