import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { type HostPolicy, requireHost, runsOnHost } from "../../../src/pod/host-policy.js";
import type { PodConfig } from "../../../src/pod/types.js";

const policy: HostPolicy = { namespaces: ["kube-system", "ci-*"], hostPid: "host" };

function pod(namespace: string, more: Partial<PodConfig> = {}): PodConfig {
  return {
    name: "p",
    uid: "u",
    namespace,
    attempt: 0,
    hostname: "",
    logDirectory: "",
    labels: {},
    annotations: {},
    runtimeHandler: "",
    portMappings: [],
    cgroupParent: "",
    sysctls: {},
    pidMode: "container",
    ...more,
  };
}

test("a pod that asks for nothing of the host has a VM, wherever it is", (t) => {
  t.false(runsOnHost(pod("kube-system"), policy));
  t.false(runsOnHost(pod("default", { pidMode: "node" }), policy));
});

test("what asks for the host gets it in an allowed namespace", (t) => {
  for (const asked of [
    { hostNamespaces: ["network" as const] },
    { hostNamespaces: ["pid" as const] },
    { hostNamespaces: ["ipc" as const] },
    { runtimeHandler: "host" },
  ]) {
    t.true(runsOnHost(pod("kube-system", asked), policy));
    t.true(runsOnHost(pod("ci-42", asked), policy));
  }
});

test("elsewhere it is refused, and the error names what asks and the key to set", (t) => {
  for (const namespace of ["default", "kube-system2", "kube", "ci", "x-ci-1"]) {
    const config = pod(namespace, { hostNamespaces: ["network", "ipc"] });
    const err = t.throws(() => runsOnHost(config, policy));
    t.true(hasCode(err, "failed_precondition"));
    t.regex(err?.message ?? "", /hostNetwork and hostIPC.*kube-system, ci-\*.*policy\.host_namespaces/);
  }
  const err = t.throws(() => runsOnHost(pod("default", { runtimeHandler: "host" }), { ...policy, namespaces: [] }));
  t.regex(err?.message ?? "", /runtime handler "host".*namespaces none/);
});

test("hostPID alone stays in the VM where the host is not allowed, beside another namespace of the host it may not", (t) => {
  t.false(runsOnHost(pod("default", { hostNamespaces: ["pid"] }), policy));
  const guest: HostPolicy = { namespaces: [], hostPid: "guest" };
  t.false(runsOnHost(pod("default", { hostNamespaces: ["pid"] }), guest));
  t.throws(() => runsOnHost(pod("default", { hostNamespaces: ["pid", "network"] }), guest));
  t.true(runsOnHost(pod("kube-system", { hostNamespaces: ["pid", "network"] }), { ...policy, hostPid: "guest" }));
});

test("a user namespace does not go with the host's", (t) => {
  const userNamespace = { uidBase: 100_000, gidBase: 100_000, size: 65_536 };
  const err = t.throws(() => runsOnHost(pod("kube-system", { hostNamespaces: ["ipc"], userNamespace }), policy));
  t.regex(err?.message ?? "", /hostIPC and a user namespace/);
});

test("what a container asks for is allowed by the pod's namespace", (t) => {
  t.notThrows(() => requireHost(pod("kube-system"), policy, "mount /m"));
  t.regex(
    t.throws(() => requireHost(pod("default"), policy, "mount /m"))?.message ?? "",
    /mount \/m needs a pod without/,
  );
});
