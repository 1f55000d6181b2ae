/** How a container's mount is made in the guest: options of the OCI runtime spec. */
import type { Mount } from "../gen/oci/v1/spec.js";
import type { MountConfig } from "../pod/types.js";

/** `relayed`: by the share, whose side of it is read-only already, and only the mount itself, not what the host has mounted below it. */
export function mountOptions(mount: MountConfig, relayed = false): string[] {
  const access = mount.recursiveReadonly ? ["ro", "rro"] : mount.readonly && !relayed ? ["ro"] : ["rw"];
  // What the host mounts below a relayed folder later comes by the relay itself; in the guest nothing is propagated.
  const propagation = mount.propagation === "hostToContainer" ? "rslave" : "rprivate";
  return ["rbind", propagation, ...access, ...(mount.idMapping ? ["idmap"] : []), ...mount.options];
}

/** OCI: an id-mapped mount shows the files through these. */
export function idMappings({ idMapping }: MountConfig): Pick<Mount, "uidMappings" | "gidMappings"> {
  if (!idMapping) return { uidMappings: [], gidMappings: [] };
  const { uidBase, gidBase, size } = idMapping;
  return {
    uidMappings: [{ containerId: 0, hostId: uidBase, size }],
    gidMappings: [{ containerId: 0, hostId: gidBase, size }],
  };
}
