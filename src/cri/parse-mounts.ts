/** CRI Mount and Device as the domain's types. */
import { type Device as CriDevice, type Mount as CriMount, MountPropagation } from "../gen/runtime/v1/api.js";
import type { DeviceConfig, MountConfig, Propagation } from "../pod/types.js";
import { absolutePath, bad, list, relativePath, text } from "./checks.js";
import { parseMappings } from "./parse-userns.js";

const PROPAGATIONS: Record<number, Propagation> = {
  [MountPropagation.PROPAGATION_PRIVATE]: "private",
  [MountPropagation.PROPAGATION_HOST_TO_CONTAINER]: "hostToContainer",
  [MountPropagation.PROPAGATION_BIDIRECTIONAL]: "bidirectional",
};
const MAX_MOUNTS = 512;
const MOUNT_OPTIONS = new Set(["noexec", "nosuid", "nodev"]);
const MAX_DEVICES = 256;

export function parseMounts(mounts: readonly CriMount[]): MountConfig[] {
  return list("config.mounts", mounts, MAX_MOUNTS).map(parseMount);
}

function parseMount(mount: CriMount): MountConfig {
  const containerPath = absolutePath("config.mounts.container_path", mount.containerPath);
  const what = `config.mounts ${containerPath}`;
  const propagation = PROPAGATIONS[mount.propagation];
  if (!propagation) throw bad(`${what}: propagation`, "PRIVATE, HOST_TO_CONTAINER or BIDIRECTIONAL", mount.propagation);
  const hostPath = absolutePath(`${what}: host_path`, mount.hostPath, true);
  const reference = text(`${what}: image`, mount.image?.image ?? "", 512);
  if ((hostPath === "") === (reference === "")) {
    throw bad(what, "either host_path or image", hostPath === "" ? "neither" : "both");
  }
  // CRI: "when set to true, readonly must be explicitly set to true, and propagation must be PRIVATE (0)."
  if (mount.recursiveReadOnly && !mount.readonly) {
    throw bad(`${what}: recursive_read_only`, "readonly beside it", "a writable mount");
  }
  if (mount.recursiveReadOnly && propagation !== "private") {
    throw bad(`${what}: recursive_read_only`, "propagation PRIVATE beside it", propagation);
  }
  // CRI: "the runtime must apply" them. selinux_relabel is left: without SELinux in the guest there is nothing to label.
  for (const option of list(`${what}: mount_options`, mount.mountOptions, 16)) {
    if (!MOUNT_OPTIONS.has(option)) throw bad(`${what}: mount_options`, [...MOUNT_OPTIONS].join(", "), option);
  }
  if (clean(containerPath) === "/") throw bad(what, "a container_path below /", containerPath);
  const parsed: MountConfig = {
    containerPath: clean(containerPath),
    hostPath,
    readonly: mount.readonly || reference !== "",
    recursiveReadonly: mount.recursiveReadOnly,
    propagation,
    options: [...new Set(mount.mountOptions)],
  };
  const idMapping = parseMappings(what, mount.uidMappings, mount.gidMappings);
  if (idMapping) parsed.idMapping = idMapping;
  if (reference !== "") {
    parsed.image = { reference, subPath: relativePath(`${what}: image_sub_path`, mount.imageSubPath) };
  }
  return parsed;
}

/** Without doubled slashes and one at the end. */
function clean(path: string): string {
  return path.replace(/\/+/g, "/").replace(/(.)\/$/, "$1");
}

export function parseDevices(devices: readonly CriDevice[]): DeviceConfig[] {
  return list("config.devices", devices, MAX_DEVICES).map((device) => {
    const hostPath = absolutePath("config.devices.host_path", device.hostPath);
    const what = `config.devices ${hostPath}`;
    if (!/^[rwm]{1,3}$/.test(device.permissions)) throw bad(`${what}: permissions`, "some of rwm", device.permissions);
    return {
      hostPath,
      containerPath: absolutePath(`${what}: container_path`, device.containerPath),
      permissions: device.permissions,
    };
  });
}
