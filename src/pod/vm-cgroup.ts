/** Last part of the cgroup of a pod's VM: enough of the id to be the pod's alone, and short enough for every tool that shows it. */
export function vmCgroupLeaf(podId: string): string {
  return `podvm-${podId.slice(0, 20)}`;
}

/** @param parent kubelet's cgroup_parent as a path, "" where the client named none */
export function vmCgroup(parent: string, podId: string): string {
  return `${parent || "/podvm"}/${vmCgroupLeaf(podId)}`;
}
