/** Live folders and files of the host (hostPath, CSI and RWX volumes): shown to the guest by the pod's share. */
import { createHash } from "node:crypto";
import type { MountConfig } from "../pod/types.js";
import type { ShareEntry } from "./share.js";
import type { HostSource } from "./source.js";
import type { VolumeChoice } from "./types.js";

/** One entry for each way in which a path is mounted: what is read-only is enforced on the host's side. */
export function relayedVolume(mount: MountConfig, source: HostSource): VolumeChoice {
  const { readonly, recursiveReadonly, propagation } = mount;
  const how = [source.path, readonly, recursiveReadonly, propagation];
  const entry: ShareEntry = {
    name: `s-${createHash("sha256").update(JSON.stringify(how)).digest("hex").slice(0, 24)}`,
    hostPath: source.path,
    readonly,
    recursiveReadonly,
    propagation: propagation === "hostToContainer" ? "hostToContainer" : "private",
  };
  return { key: `share:${entry.name}`, spec: { kind: "share", entry }, subPath: "" };
}
