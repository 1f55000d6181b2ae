/** Where a cluster of one node has its folder, addresses and ports, and by which files its parts find each other. */
import { join } from "node:path";

export interface ClusterOptions {
  /** State of everything; removed by `down`. */
  dir: string;
  /** Sockets of the cluster's own PodVM, at most 64 bytes. Ignored where `socket` is given. */
  runDir: string;
  /** The node's name. */
  node: string;
  /** The node's address, on a bridge of its own: kubelet and API server want one that is not loopback. */
  nodeIp: string;
  /** Name of that bridge, at most 15 characters. */
  link: string;
  /** Service addresses, a /24. */
  serviceCidr: string;
  /** Pod addresses. */
  podCidr: string;
  /** Name of the bridge of pods (of the cluster's own PodVM). */
  podBridge: string;
  /** A PodVM that runs already, whose only kubelet this cluster's is to be. Default: one of the cluster's own. */
  socket?: string;
  /** Base URL to mirror every registry to (of the cluster's own PodVM). */
  mirror?: string;
  /** Below which cgroup kubelet makes its own. */
  cgroupRoot: string;
  ports: Ports;
}

export interface Ports {
  etcd: number;
  etcdPeer: number;
  api: number;
  controllers: number;
  scheduler: number;
  kubelet: number;
  kubeletHealth: number;
  proxyHealth: number;
  proxyMetrics: number;
}

/** What `make cluster` makes. All ports are beside the usual ones. */
export function defaults(env: NodeJS.ProcessEnv = process.env): ClusterOptions {
  return {
    dir: env.PODVM_CLUSTER || "/var/lib/podvm/cluster",
    runDir: "/run/podvm-cluster",
    node: "podvm",
    nodeIp: "10.98.0.1",
    link: "podvmc0",
    serviceCidr: "10.98.1.0/24",
    podCidr: "10.98.2.0/24",
    podBridge: "podvmc1",
    cgroupRoot: "/",
    ports: {
      etcd: 22379,
      etcdPeer: 22380,
      api: 26443,
      controllers: 20257,
      scheduler: 20259,
      kubelet: 20250,
      kubeletHealth: 20248,
      proxyHealth: 20256,
      proxyMetrics: 20249,
    },
    ...(env.MIRROR ? { mirror: env.MIRROR } : {}),
    ...(env.PODVM_SOCKET ? { socket: env.PODVM_SOCKET } : {}),
  };
}

export const apiUrl = (options: ClusterOptions) => `https://${options.nodeIp}:${options.ports.api}`;
export const kubeconfig = (options: Pick<ClusterOptions, "dir">, who: Who) => join(options.dir, `${who}.conf`);

/** Who speaks to the API server, each with a token and a kubeconfig of its own. */
export const users = ["admin", "controllers", "scheduler", "kubelet", "proxy"] as const;
export type Who = (typeof users)[number];
