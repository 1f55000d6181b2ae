/**
 * What a pod's network consists of, on disk before it exists:
 *
 *        setup                                 teardown
 *   ┌──────────┐ result of the last plugin,  ┌─────────┐
 *   │  adding  │ ──────────────────────────> │  ready  │
 *   └─┬──────┬─┘          tap, tc            └────┬────┘
 *     │  ^   │ DEL                                │ DEL
 *     └──┘   └──────────────┬─────────────────────┘
 *   result of each plugin   │ answered
 *                     ┌─────v─────┐ namespace removed
 *                     │  deleted  │ ─────────────────> (no record)
 *                     └───────────┘
 *
 * A server that finds `adding` does not know how far ADD got, so it calls DEL, which the specification wants to succeed
 * for what is not there, with the last result that there was. One that finds `deleted` never calls DEL again.
 */
import type { StoredDocument } from "../host/document-store.js";
import type { NetworkList } from "./config.js";
import type { NetworkRequest, PodNetwork } from "./network.js";
import type { CniResult } from "./result.js";

export const recordVersion = 1;

export interface NetworkRecord extends StoredDocument {
  version: typeof recordVersion;
  /** The pod's id. */
  id: string;
  phase: "adding" | "ready" | "deleted";
  request: NetworkRequest;
  /** Name below /run/netns. */
  netns: string;
  /** As it was at ADD: DEL must get the same, whatever the folder of configurations holds by then. */
  list: NetworkList;
  /** What the plugins that have answered so far made: DEL's prevResult. Absent before the first one's answer. */
  result?: CniResult;
  /** What setup answered; from `ready` on. */
  network?: PodNetwork;
}
