/** The command line and configuration of each program. */
import { join } from "node:path";
import { tool } from "../support/tools.js";
import { type ClusterOptions, kubeconfig } from "./options.js";

type Argv = [string, ...string[]];
const loopback = "127.0.0.1";

export function etcd({ dir, ports }: ClusterOptions): Argv {
  const client = `http://${loopback}:${ports.etcd}`;
  const peer = `http://${loopback}:${ports.etcdPeer}`;
  return [
    tool("etcd"),
    `--data-dir=${join(dir, "etcd")}`,
    `--listen-client-urls=${client}`,
    `--advertise-client-urls=${client}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=default=${peer}`,
    "--unsafe-no-fsync", // nothing in it is worth a disk's pace
  ];
}

export function apiserver(options: ClusterOptions): Argv {
  const { dir, nodeIp, ports } = options;
  const pki = (name: string) => join(dir, "pki", name);
  return [
    tool("kube-apiserver"),
    `--etcd-servers=http://${loopback}:${ports.etcd}`,
    `--bind-address=${nodeIp}`,
    `--advertise-address=${nodeIp}`,
    `--secure-port=${ports.api}`,
    `--cert-dir=${join(dir, "pki")}`,
    `--token-auth-file=${join(dir, "tokens.csv")}`,
    "--authorization-mode=Node,RBAC",
    "--enable-admission-plugins=NodeRestriction",
    `--service-cluster-ip-range=${options.serviceCidr}`,
    "--service-account-issuer=https://kubernetes.default.svc",
    `--service-account-key-file=${pki("sa.pub")}`,
    `--service-account-signing-key-file=${pki("sa.key")}`,
    `--kubelet-client-certificate=${pki("apiserver-kubelet.crt")}`,
    `--kubelet-client-key=${pki("apiserver-kubelet.key")}`,
    "--kubelet-preferred-address-types=InternalIP",
    "--allow-privileged=true",
  ];
}

export function controllers(options: ClusterOptions): Argv {
  const { dir, ports } = options;
  return [
    tool("kube-controller-manager"),
    `--kubeconfig=${kubeconfig(options, "controllers")}`,
    "--use-service-account-credentials",
    `--service-account-private-key-file=${join(dir, "pki/sa.key")}`,
    `--root-ca-file=${join(dir, "pki/apiserver.crt")}`,
    "--leader-elect=false",
    `--bind-address=${loopback}`,
    `--secure-port=${ports.controllers}`,
    `--cert-dir=${join(dir, "pki/controllers")}`,
  ];
}

export function scheduler(options: ClusterOptions): Argv {
  return [
    tool("kube-scheduler"),
    `--kubeconfig=${kubeconfig(options, "scheduler")}`,
    "--leader-elect=false",
    `--bind-address=${loopback}`,
    `--secure-port=${options.ports.scheduler}`,
    `--cert-dir=${join(options.dir, "pki/scheduler")}`,
  ];
}

export function kubelet(options: ClusterOptions): Argv {
  return [
    tool("kubelet"),
    `--config=${join(options.dir, "kubelet.json")}`,
    `--kubeconfig=${kubeconfig(options, "kubelet")}`,
    `--root-dir=${join(options.dir, "kubelet")}`,
    `--cert-dir=${join(options.dir, "pki/kubelet")}`,
    `--hostname-override=${options.node}`,
    `--node-ip=${options.nodeIp}`,
    "--v=2",
  ];
}

export function kubeletConfig(options: ClusterOptions, socket: string): object {
  const { dir, nodeIp, ports } = options;
  return {
    apiVersion: "kubelet.config.k8s.io/v1beta1",
    kind: "KubeletConfiguration",
    failCgroupV1: false,
    cgroupDriver: "cgroupfs",
    cgroupRoot: options.cgroupRoot,
    containerRuntimeEndpoint: `unix://${socket}`,
    staticPodPath: join(dir, "manifests"),
    podLogsDir: join(dir, "logs"),
    volumePluginDir: join(dir, "plugins"),
    address: nodeIp,
    port: ports.kubelet,
    readOnlyPort: 0,
    healthzPort: ports.kubeletHealth,
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: false },
      x509: { clientCAFile: join(dir, "pki/ca.crt") },
    },
    authorization: { mode: "AlwaysAllow" }, // whoever has a certificate: the API server
    failSwapOn: false,
    makeIPTablesUtilChains: false,
    resolvConf: join(dir, "resolv.conf"),
    evictionHard: { "memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
    imageGCHighThresholdPercent: 99,
    imageGCLowThresholdPercent: 98,
    runtimeRequestTimeout: "4m", // an emulated VM takes its time
  };
}

export function proxy(options: ClusterOptions): Argv {
  return [tool("kube-proxy"), `--config=${join(options.dir, "proxy.json")}`];
}

export function proxyConfig(options: ClusterOptions): object {
  const { ports } = options;
  return {
    apiVersion: "kubeproxy.config.k8s.io/v1alpha1",
    kind: "KubeProxyConfiguration",
    clientConnection: { kubeconfig: kubeconfig(options, "proxy") },
    hostnameOverride: options.node,
    mode: "iptables",
    clusterCIDR: options.podCidr,
    bindAddress: options.nodeIp,
    healthzBindAddress: `${loopback}:${ports.proxyHealth}`,
    metricsBindAddress: `${loopback}:${ports.proxyMetrics}`,
    // A pod that reaches another on the same bridge by a service must have its answer come back through the node.
    iptables: { masqueradeAll: true, localhostNodePorts: false },
    // The machine's limits stay what they are.
    conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: "0s", tcpCloseWaitTimeout: "0s" },
  };
}
