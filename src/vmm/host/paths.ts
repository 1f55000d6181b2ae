/** Where a host pod's things lie, all below the two folders of its VmSpec. */
import type { VmSpec } from "../vmm.js";

/** One link to a folder for each disk, named by its serial. */
export const disksFolder = (spec: Pick<VmSpec, "dir">) => `${spec.dir}/disks`;
/** Writable layers of the containers. */
export const layersFolder = (spec: Pick<VmSpec, "dir">) => `${spec.dir}/layers`;
/** The agent's own, a mount of its own; bundles and root file systems are mounted in it. */
export const agentFolder = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/agent`;
export const agentSocket = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/agent.sock`;
export const pidFile = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/pid`;
