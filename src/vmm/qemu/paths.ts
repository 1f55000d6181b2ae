/** Where a VM's files lie, all below the two folders of its VmSpec. */
import type { VmSpec } from "../vmm.js";

/** The only folder that the VMM can write in, and only to files that are its own user's already. */
export const diskFolder = (spec: Pick<VmSpec, "dir">) => `${spec.dir}/disks`;
export const qmpSocket = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/qmp.sock`;
export const agentSocket = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/agent.sock`;
export const shareSocket = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/share.sock`;
export const pidFile = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/pid`;
export const rootMountPoint = (spec: Pick<VmSpec, "runDir">) => `${spec.runDir}/root`;
