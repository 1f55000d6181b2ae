/** Volumes and devices of pods without a VM: what the host has, where it is. */
import type { DeepPartial, Device } from "../gen/agent/v1/agent.js";
import type { Mount as OciMount } from "../gen/oci/v1/spec.js";
import { PodvmError } from "../host/errors.js";
import type { DeviceConfig, MountConfig, Propagation } from "../pod/types.js";
import { resolveOrMake } from "./missing.js";
import { idMappings, mountOptions } from "./mount-options.js";
import { type MountInfo, mountOf, readMountInfo } from "./mountinfo.js";

export interface HostVolumes {
  mounts: OciMount[];
  devices: DeepPartial<Device>[];
  /** What the container's root must be for its mounts to be that (OCI linux.rootfsPropagation); "" where private will do. */
  rootfsPropagation: "" | "rslave" | "rshared";
}

const OPTION: Record<Propagation, string> = {
  private: "rprivate",
  hostToContainer: "rslave",
  bidirectional: "rshared",
};

/**
 * Bind mounts for all mounts that have a host path, and the devices. Links are followed; a folder that is not there is made, as other runtimes do
 * it. Rejects with failed_precondition where the host's mount cannot propagate as asked.
 */
export async function hostVolumes(
  mounts: readonly MountConfig[],
  devices: readonly DeviceConfig[],
): Promise<HostVolumes> {
  const table = await readMountInfo();
  const volumes: HostVolumes = { mounts: [], devices: [], rootfsPropagation: "" };
  for (const mount of mounts) {
    if (mount.hostPath === "") continue;
    const source = await resolveOrMake(mount.hostPath);
    checkPropagates(source, mount, table);
    if (mount.propagation === "bidirectional") volumes.rootfsPropagation = "rshared";
    else if (mount.propagation === "hostToContainer") volumes.rootfsPropagation ||= "rslave";
    const options = mountOptions(mount).filter((option) => !Object.values(OPTION).includes(option));
    volumes.mounts.push({
      destination: mount.containerPath,
      type: "bind",
      source,
      options: [...options, OPTION[mount.propagation]],
      ...idMappings(mount),
    });
  }
  for (const { hostPath, containerPath: path, permissions } of devices) {
    volumes.devices.push({ path, permissions, guest: hostPath });
  }
  return volumes;
}

function checkPropagates(source: string, mount: MountConfig, table: readonly MountInfo[]): void {
  if (mount.propagation === "private") return;
  const found = mountOf(source, table);
  const propagation = found?.propagation ?? "private";
  if (propagation === "shared" || (mount.propagation === "hostToContainer" && propagation === "slave")) return;
  const at = found?.mountPoint ?? "/";
  throw new PodvmError(
    "failed_precondition",
    `mount ${mount.containerPath}: ${source} lies on the mount ${at}, which is ${propagation}: nothing can propagate as asked. Make it shared on ` +
      `the node: mount --make-rshared ${at}`,
  );
}
