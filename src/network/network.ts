/** What the other rooms see of networking. */

export interface PortMapping {
  protocol: "tcp" | "udp" | "sctp";
  containerPort: number;
  hostPort: number;
  hostIp: string;
}

export interface NetworkRequest {
  podId: string;
  podNamespace: string;
  podName: string;
  podUid: string;
  portMappings: PortMapping[];
  /** Unprivileged user that may attach to the tap. */
  uid: number;
  /** The pod has no VM: its processes are in the namespace themselves, and no tap is made. */
  withoutVm?: boolean;
}

export interface GuestInterface {
  name: string;
  mac: string;
  mtu: number;
  /** With prefix length: 10.88.0.5/16. */
  addresses: string[];
}

export interface GuestRoute {
  destination: string;
  /** "" for a directly connected destination. */
  gateway: string;
  interface: string;
  mtu: number;
}

export interface PodNetwork {
  /** Path of the network namespace. */
  netns: string;
  /** Name of the tap in it, redirected to and from the CNI interface; "" for a pod without a VM. */
  tap: string;
  /** As CNI gave them; the guest shall carry exactly these. First one is eth0. */
  interfaces: GuestInterface[];
  routes: GuestRoute[];
  dns: { servers: string[]; searches: string[]; options: string[] };
  /** Without prefix length, the primary first: what CRI reports. */
  ips: string[];
}

export interface NetworkStatus {
  ready: boolean;
  /** CamelCase, "" when ready: NetworkPluginNotReady. */
  reason: string;
  message: string;
  /** Name of the configuration in use. */
  configuration?: string;
}

export interface Network {
  /** Loads the configuration, watches its folder. */
  open(): Promise<void>;
  close(): void;
  status(): NetworkStatus;
  /**
   * Idempotent by pod id: where the pod has its network already, that one is the answer. After a rejection nothing is left; where
   * even the undoing failed the error says so, `list` goes on naming the pod, and `teardown` tries again.
   * Errors: unavailable (no usable configuration: see `status`), invalid_argument, deadline_exceeded, what the plugin said.
   */
  setup(request: NetworkRequest, deadlineMs: number): Promise<PodNetwork>;
  /**
   * The VM of the pod is gone, and its processes are to be in the namespace themselves: takes the tap away, so that the interface that CNI made
   * answers by itself. Addresses and routes stay as they are. Idempotent; not_found where the pod has no network.
   */
  leaveToHost(podId: string, deadlineMs: number): Promise<PodNetwork>;
  /** CNI DEL with what ADD returned, exactly once, then tap and namespace. OK where there is none. Keeps its record until all of it is gone. */
  teardown(podId: string, deadlineMs: number): Promise<void>;
  /** Pods that have a network record on disk: for the sweep at start. */
  list(): Promise<string[]>;
}
