import { type Assets, bundleTool } from "../host/assets.js";
import { Budget } from "../host/budget.js";
import { DocumentStore } from "../host/document-store.js";
import { messageOf, PodvmError } from "../host/errors.js";
import { KeyedLock } from "../host/keyed-lock.js";
import type { Logger } from "../host/log.js";
import { type Attachment, addNetwork, type ChainOptions, delNetwork, mapsPorts, podInterface } from "./chain.js";
import { awaitLeftovers } from "./leftovers.js";
import { lookAt } from "./look.js";
import { createNetns, type IpTools, netnsExists, netnsPath, removeNetns } from "./netns.js";
import type { Network, NetworkRequest, NetworkStatus, PodNetwork } from "./network.js";
import { type NetworkRecord, recordVersion } from "./record.js";
import { checkPodId, checkRequest } from "./request.js";
import type { CniResult } from "./result.js";
import { standIn } from "./stand-in.js";
import { createTap, loopbackUp, redirect, removeTap, tapName } from "./tap.js";
import { ConfigWatcher } from "./watcher.js";

export interface NetworkOptions {
  /** Folder of CNI configurations; need not exist yet. */
  confDir: string;
  /** Folders of CNI plugins; the bundle's own come after them. */
  binDirs: string[];
  /** The records go to `<stateDir>/network`. */
  stateDir: string;
  assets: Pick<Assets, "bundle">;
  logger: Logger;
  /** Environment of the plugins, beside CNI_*; the bundle's programs come first in its PATH. Default: the server's. */
  env?: NodeJS.ProcessEnv;
  /** Milliseconds between looks for what inotify does not tell. Default 5000. */
  rescanMs?: number;
}

/** Undoing a failed setup has its own time: the request's may be what ran out. */
const undoMs = 30_000;

/** Networks of pods by CNI. `open` it before use; docs/network.md tells how it works. */
export function createNetwork(options: NetworkOptions): Network {
  return new CniNetwork(options);
}

class CniNetwork implements Network {
  readonly #tools: IpTools;
  readonly #chain: ChainOptions;
  readonly #watcher: ConfigWatcher;
  readonly #store: DocumentStore<NetworkRecord>;
  readonly #records = new Map<string, NetworkRecord>();
  /** Pods whose record an earlier server wrote: plugins of its may still run. */
  readonly #inherited = new Set<string>();
  readonly #lock = new KeyedLock();
  readonly #logger: Logger;

  constructor(options: NetworkOptions) {
    const { assets, confDir, logger, rescanMs = 5_000, env = process.env } = options;
    const path = [`${assets.bundle}/bin`, env.PATH ?? "/usr/sbin:/usr/bin:/sbin:/bin"].join(":");
    const pluginEnv = { ...env, PATH: path };
    this.#logger = logger;
    this.#tools = { ip: bundleTool(assets, "ip"), tc: bundleTool(assets, "tc"), env: pluginEnv };
    this.#chain = { binDirs: [...new Set([...options.binDirs, `${assets.bundle}/cni`])], env: pluginEnv };
    this.#watcher = new ConfigWatcher({ confDir, chain: this.#chain, logger, rescanMs });
    this.#store = new DocumentStore(`${options.stateDir}/network`, recordVersion);
  }

  async open(): Promise<void> {
    for (const record of await this.#store.load()) {
      this.#records.set(record.id, record);
      this.#inherited.add(record.id);
    }
    await this.#watcher.open();
  }

  close(): void {
    this.#watcher.close();
  }

  status(): NetworkStatus {
    return this.#watcher.status();
  }

  async list(): Promise<string[]> {
    return [...this.#records.keys()];
  }

  async setup(request: NetworkRequest, deadlineMs: number): Promise<PodNetwork> {
    const checked = checkRequest(request);
    const budget = new Budget(deadlineMs, `network of pod ${checked.podId}`);
    return this.#lock.run(checked.podId, () => this.#setup(checked, budget));
  }

  async teardown(podId: string, deadlineMs: number): Promise<void> {
    checkPodId(podId);
    const budget = new Budget(deadlineMs, `removing the network of pod ${podId}`);
    await this.#lock.run(podId, async () => {
      const record = this.#records.get(podId);
      if (record) await this.#remove(record, budget);
    });
  }

  async leaveToHost(podId: string, deadlineMs: number): Promise<PodNetwork> {
    checkPodId(podId);
    const budget = new Budget(deadlineMs, `tap of pod ${podId}`);
    return this.#lock.run(podId, async () => {
      const record = this.#records.get(podId);
      if (!record?.network) throw new PodvmError("not_found", `pod ${podId} has no network`);
      if (record.network.tap !== "") {
        await removeTap(this.#tools, record.netns, budget.left());
        record.network.tap = "";
        record.request.withoutVm = true;
        await this.#put(record);
      }
      return structuredClone(record.network);
    });
  }

  async #setup(request: NetworkRequest, budget: Budget): Promise<PodNetwork> {
    const { podId } = request;
    const before = this.#records.get(podId);
    if (before?.network && before.phase === "ready" && (await netnsExists(before.netns))) {
      if (before.request.uid === request.uid) return structuredClone(before.network);
      throw new PodvmError(
        "already_exists",
        `pod ${podId} has a network whose tap belongs to uid ${before.request.uid}; wanted uid ${request.uid}. Tear it down first`,
      );
    }
    if (before) await this.#remove(before, budget); // half made, or lost with a reboot

    const list = await this.#watcher.current();
    if (request.portMappings.length > 0 && !mapsPorts(list)) {
      this.#logger.warn("host ports asked for, but no plugin of the network has the capability portMappings", {
        pod: podId,
        network: list.name,
      });
    }
    const netns = `podvm-${podId.slice(0, 12)}`;
    if (await netnsExists(netns)) {
      throw new PodvmError(
        "already_exists",
        `namespace ${netnsPath(netns)} exists, yet there is no record of pod ${podId}. If nothing uses it: ip netns delete ${netns}`,
      );
    }
    const record: NetworkRecord = { version: recordVersion, id: podId, phase: "adding", request, netns, list };
    await this.#put(record);
    try {
      return await this.#make(record, budget);
    } catch (err) {
      await this.#undo(record, PodvmError.from(err));
      throw err;
    }
  }

  async #make(record: NetworkRecord, budget: Budget): Promise<PodNetwork> {
    const { request, netns, list } = record;
    await createNetns(this.#tools, netns, budget.left());
    const deadlineMs = budget.left();
    await addNetwork(list, attachment(record, netnsPath(netns)), this.#chain, deadlineMs, async (result) => {
      record.result = result;
      await this.#put(record);
    });
    const { result } = record;
    if (!result) throw new PodvmError("internal", `CNI network ${list.name} has no plugins`);
    const ips = addressesOf(result);
    if (ips.length === 0) {
      throw new PodvmError(
        "failed_precondition",
        `CNI network ${list.name} gave ${podInterface} no address; it needs an IPAM plugin`,
      );
    }
    const found = await lookAt(this.#tools, netns, this.#logger, budget.left());
    if (found.others > 0) {
      this.#logger.warn(`only ${podInterface} reaches the guest; the pod's namespace has more interfaces`, {
        pod: record.id,
        others: found.others,
      });
    }
    if (request.withoutVm) {
      await loopbackUp(this.#tools, netns, budget.left());
    } else {
      await createTap(this.#tools, netns, request.uid, found.interface.mtu, budget.left());
      await redirect(this.#tools, netns, budget.left());
    }
    const { nameservers, domain, search, options } = result.dns;
    record.network = {
      netns: netnsPath(netns),
      tap: request.withoutVm ? "" : tapName,
      interfaces: [found.interface],
      routes: found.routes,
      dns: { servers: nameservers, searches: search.length > 0 || !domain ? search : [domain], options },
      ips,
    };
    record.phase = "ready";
    await this.#put(record);
    return structuredClone(record.network);
  }

  /** After a failed setup: nothing is left, or the record stays, for a later teardown, and the error says so. */
  async #undo(record: NetworkRecord, why: PodvmError): Promise<void> {
    try {
      await this.#remove(record, new Budget(undoMs, `undoing the network of pod ${record.id}`));
    } catch (err) {
      throw new PodvmError(why.code, `${why.message}. What was made so far is not removed yet: ${messageOf(err)}`, {
        cause: why,
      });
    }
  }

  async #remove(record: NetworkRecord, budget: Budget): Promise<void> {
    if (this.#inherited.has(record.id)) await awaitLeftovers(record.id, budget.left());
    this.#inherited.delete(record.id);
    if (record.phase !== "deleted") {
      await this.#del(record, budget);
      record.phase = "deleted";
      await this.#put(record).catch((err: unknown) => {
        // A full disk must not keep the rest from going: at worst a server that dies now calls DEL once more.
        this.#logger.warn("cannot note that CNI DEL is done", { pod: record.id, err });
      });
    }
    await removeNetns(this.#tools, record.netns, budget.left()); // tap and redirect go with it
    await this.#store.delete(record.id);
    this.#records.delete(record.id);
  }

  /**
   * Where the namespace is gone, first with one that stands in for it, so that masquerading goes too; plugins that do not find the rest of what
   * they made (after a reboot there is none) may fail on that, and are called without a namespace then, as the specification has it.
   */
  async #del(record: NetworkRecord, budget: Budget): Promise<void> {
    const del = (netns: string) =>
      delNetwork(record.list, attachment(record, netns), record.result, this.#chain, budget.left());
    if (await netnsExists(record.netns)) return del(netnsPath(record.netns));
    if (record.result) {
      const name = `${record.netns}-gone`;
      try {
        await removeNetns(this.#tools, name, budget.left()); // left by a server that died here
        await standIn(this.#tools, name, record.result, budget.left());
        return await del(netnsPath(name));
      } catch (err) {
        const error = messageOf(err);
        this.#logger.debug("CNI DEL with a stand-in for the pod's namespace", { pod: record.id, error });
      } finally {
        await removeNetns(this.#tools, name, budget.left());
      }
    }
    await del("");
  }

  async #put(record: NetworkRecord): Promise<void> {
    await this.#store.put(record);
    this.#records.set(record.id, record);
  }
}

function attachment(record: NetworkRecord, netns: string): Attachment {
  const { podId, podNamespace, podName, podUid, portMappings } = record.request;
  return { podId, podNamespace, podName, podUid, portMappings, netns };
}

/** Addresses of the pod's interface, in the order of the result: kubelet sorts them by the node's family itself. */
function addressesOf(result: CniResult): string[] {
  return result.ips.flatMap(({ address, interface: index }) => {
    const on = index === undefined ? undefined : result.interfaces[index];
    const ours = on === undefined || (on.name === podInterface && on.sandbox !== undefined);
    return ours ? [address.split("/")[0] ?? ""] : [];
  });
}
