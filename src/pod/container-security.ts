/** What a container's security context needs beyond its own words: profiles of this node, and what its pod was made with. */
import type { CreateContainerRequest } from "../gen/agent/v1/agent.js";
import { loadedPolicy } from "../host/apparmor.js";
import { PodvmError } from "../host/errors.js";
import type { ContainerConfig, PodConfig, UserNamespace } from "./types.js";

/**
 * invalid_argument where the container's user namespace, or the mapping of one of its mounts, is not its pod's: all containers of a pod share
 * one, and a mount can only be mapped to that.
 */
export function checkUserNamespace(pod: PodConfig, config: ContainerConfig): void {
  const asked = config.security.userNamespace;
  if (asked !== undefined) {
    assertSame(
      "security_context.namespace_options.userns_options",
      pod.userNamespace,
      asked === "node" ? undefined : asked,
    );
  }
  for (const { containerPath, idMapping } of config.mounts) {
    if (idMapping) assertSame(`config.mounts ${containerPath}: uidMappings, gidMappings`, pod.userNamespace, idMapping);
  }
}

function assertSame(what: string, own: UserNamespace | undefined, asked: UserNamespace | undefined): void {
  if (describe(own) === describe(asked)) return;
  throw new PodvmError("invalid_argument", `${what}: wanted the pod's (${describe(own)}), found ${describe(asked)}`);
}

function describe(userNamespace: UserNamespace | undefined): string {
  if (!userNamespace) return "none";
  const { uidBase, gidBase, size } = userNamespace;
  return `uids from ${uidBase}, gids from ${gidBase}, length ${size}`;
}

/** The fields of the agent's request that come from the security context, beside the OCI spec. Rejects where a profile is not loaded here. */
export async function securityFields(
  config: ContainerConfig,
): Promise<Pick<CreateContainerRequest, "apparmorPolicy" | "allDevices">> {
  const { apparmor, privileged } = config.security;
  // As other runtimes do: a privileged container is confined by no profile unless one is asked for by name.
  const apparmorPolicy = apparmor.type === "localhost" ? await loadedPolicy(apparmor.profile) : Buffer.alloc(0);
  return { apparmorPolicy, allDevices: privileged };
}
