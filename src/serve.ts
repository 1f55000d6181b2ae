/** Wires all rooms into one server, and runs it until it is told to stop. The only place that knows every room. */
import { mkdir } from "node:fs/promises";
import { createAdminHandlers } from "./admin/service.js";
import type { Config } from "./config/config.js";
import { runtimeHandlers } from "./cri/handlers-runtime.js";
import { createCriServer } from "./cri/server.js";
import { imageVerbs } from "./cri/verbs-image.js";
import { AdminService } from "./gen/admin/v1/admin.js";
import { bundleTool } from "./host/assets.js";
import { DocumentStore } from "./host/document-store.js";
import { messageOf, PodvmError } from "./host/errors.js";
import { groupNumber } from "./host/groups.js";
import { lockState } from "./host/instance-lock.js";
import { KeyedLock } from "./host/keyed-lock.js";
import { locateAssets } from "./host/locate-assets.js";
import type { Logger } from "./host/log.js";
import { podvmVersion } from "./host/version.js";
import { parseReference } from "./image/reference.js";
import { createImageStore } from "./image/store.js";
import { createNetwork } from "./network/create.js";
import { createLogger } from "./observe/logger.js";
import { createNotifier } from "./observe/notify.js";
import { Metrics } from "./observe/server-metrics.js";
import type { PodContext } from "./pod/context.js";
import { writableUsage } from "./pod/disk-usage.js";
import { PodEvents } from "./pod/events.js";
import { recover } from "./pod/recovery.js";
import { PodRegistry } from "./pod/registry.js";
import { createStreamBackend } from "./pod/stream-backend.js";
import { type ContainerDocument, DOCUMENT_VERSION, type PodDocument } from "./pod/types.js";
import { UidPool } from "./pod/uid-pool.js";
import { watchVm } from "./pod/watch.js";
import { createStreamingServer } from "./streaming/server.js";
import { createHostVmm } from "./vmm/host/backend.js";
import { createQemuVmm } from "./vmm/qemu/backend.js";
import { createVmmRegistry } from "./vmm/registry.js";
import { createScratch } from "./volume/scratch.js";
import { createShares } from "./volume/shares.js";

export interface ServeOptions {
  config: Config;
  /** For the log. */
  configPath?: string;
}

const CLOSE_MS = 10_000;

/** Resolves when the server was told to stop (SIGTERM, SIGINT) and has stopped. Pods go on without it. */
export async function serve({ config, configPath }: ServeOptions): Promise<void> {
  const logger = createLogger(config.log);
  process.on("uncaughtException", (err) => die(logger, "an exception nobody caught", err));
  process.on("unhandledRejection", (err) => die(logger, "a rejection nobody handled", err));
  const stopped = stopSignal();
  logger.info("podvm starts", { version: podvmVersion(), config: configPath ?? "the default", socket: config.socket });

  await lockState(config.stateDir);
  await mkdir(config.runDir, { recursive: true, mode: 0o711 });
  const assets = await locateAssets(config.assetsDir);
  const qemu = createQemuVmm({ assets, logger, accelerator: config.vm.accelerator });
  const vmm = await qemu.status();
  if (!vmm.usable) logger.error("QEMU cannot be used: RunPodSandbox will fail", { reason: vmm.reason });
  else if (vmm.reason)
    logger.warn("virtual machines run slowly on this node", { accelerator: vmm.accelerator, reason: vmm.reason });
  for (const relaxation of vmm.relaxations) logger.warn("isolation is relaxed on this node", { relaxation });
  const host = createHostVmm({ assets, stateDir: config.stateDir, logger });
  const backends = createVmmRegistry([qemu], host);

  const images = createImageStore({
    stateDir: config.stateDir,
    assets,
    logger,
    registries: config.image.registries,
    dockerConfigPaths: config.image.dockerConfig,
    pinned: config.image.pinned,
    limits: { maxUnpackedBytes: config.image.maxUnpackedGib * 2 ** 30 },
  });
  const network = createNetwork({
    confDir: config.network.confDir,
    binDirs: config.network.binDirs,
    stateDir: config.stateDir,
    assets,
    logger,
  });
  const registry = new PodRegistry();
  const shares = createShares({
    program: assets.share,
    logger,
    openPort: async (spec, deadlineMs) => {
      const vm = registry.findPod(spec.id)?.vm;
      if (!vm) throw new PodvmError("not_found", `pod ${spec.id} has no VM that runs`);
      return await vm.openSharePort(deadlineMs);
    },
  });
  const pods: PodContext = {
    settings: {
      stateDir: config.stateDir,
      runDir: config.runDir,
      sizing: config.vm,
      scratchGib: config.vm.scratchGib,
      startTimeoutMs: config.vm.startTimeoutSeconds * 1000,
      unsetSeccompProfile: config.policy.unsetSeccompProfile,
      sockets: config.policy.sockets,
      hostPods: { namespaces: config.policy.hostNamespaces, hostPid: config.policy.hostPid },
    },
    assets,
    logger,
    registry,
    events: new PodEvents(),
    podDocuments: new DocumentStore<PodDocument>(`${config.stateDir}/pods`, DOCUMENT_VERSION),
    containerDocuments: new DocumentStore<ContainerDocument>(`${config.stateDir}/containers`, DOCUMENT_VERSION),
    locks: new KeyedLock(),
    uids: new UidPool(config.vm.uidBase, config.vm.uidCount),
    backends,
    network,
    images,
    shares,
    createScratch: (dir, uid) =>
      createScratch({ mkfs: bundleTool(assets, "mkfs.ext4"), dir, sizeGib: config.vm.scratchGib, uid }),
    watchVm: (pod, vm) => watchVm(pods, pod, vm, podvmVersion()),
  };
  const metrics = new Metrics(() => ({
    pods: backends.all().flatMap(({ name: backend }) => {
      const own = registry.pods().filter((pod) => pod.document.vmm === backend);
      const ready = own.filter((pod) => pod.ready).length;
      return [
        { backend, state: "ready" as const, count: ready },
        { backend, state: "notready" as const, count: own.length - ready },
      ];
    }),
    containersRunning: registry.containers().filter((container) => container.running).length,
    images: images.list().length,
  }));

  const streaming = createStreamingServer({ backend: createStreamBackend(pods), logger });
  let ready = false;
  const server = createCriServer({
    runtime: runtimeHandlers(pods, streaming, {
      version: podvmVersion(),
      handlers: backends.handlers(),
      verbose: async () => ({ version: podvmVersion(), assets, vmm, config }),
    }),
    image: imageVerbs(images, () => writableUsage(registry.pods())),
    services: [{ definition: AdminService, handlers: createAdminHandlers({ images, parseReference, metrics }) }],
    socketPath: config.socket,
    socketMode: config.socketMode,
    ...(config.socketGroup !== undefined && { socketGid: await groupNumber(config.socketGroup) }),
    logger,
    ready: () => ready,
    observe: metrics.observeRpc,
  });
  await server.listen();
  const notifier = createNotifier(logger);
  try {
    await streaming.listen();
    await images.open();
    await network.open();
    await recover(pods);
    ready = true;
    logger.info("podvm serves", { pods: registry.pods().length, images: images.list().length });
    await notifier.ready(`serving ${registry.pods().length} pods`);
    const signal = await stopped;
    logger.info("podvm stops; pods go on", { signal });
    await notifier.stopping();
  } finally {
    ready = false;
    await server.close(CLOSE_MS);
    await streaming.close();
    shares.release();
    await letGo(pods);
    network.close();
    metrics.close();
  }
}

/** Logs are flushed and links closed; VMs, networks and documents stay as they are. */
async function letGo(pods: PodContext): Promise<void> {
  await Promise.allSettled(pods.registry.containers().map((container) => container.pump?.close()));
  await Promise.allSettled(pods.registry.pods().map((pod) => pod.session?.close()));
  for (const pod of pods.registry.pods()) pod.vm?.release();
}

function stopSignal(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    process.once("SIGTERM", resolve);
    process.once("SIGINT", resolve);
  });
}

/** State is on disk before every side effect: to start again is safer than to go on in a state that nobody foresaw. */
function die(logger: Logger, what: string, err: unknown): void {
  logger.error(`${what}: the server ends itself and is to be started again`, {
    err: err instanceof Error ? err : messageOf(err),
  });
  setTimeout(() => process.exit(70), 100);
}
