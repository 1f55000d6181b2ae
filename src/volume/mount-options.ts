/** How a container's mount is made in the guest: options of the OCI runtime spec. */
import type { MountConfig } from "../pod/types.js";

export function mountOptions(mount: MountConfig): string[] {
  const access = mount.readonly ? (mount.recursiveReadonly ? ["ro", "rro"] : ["ro"]) : ["rw"];
  // What the host mounts below a relayed folder later comes by the relay itself; in the guest nothing is propagated.
  return ["rbind", mount.propagation === "hostToContainer" ? "rslave" : "rprivate", ...access, ...mount.options];
}
