import test from "ava";
import { parseContainer } from "../../../src/cri/parse-container.js";
import { parseSandbox } from "../../../src/cri/parse-sandbox.js";
import {
  ContainerConfig,
  NamespaceMode,
  PodSandboxConfig,
  SecurityProfile_ProfileType as ProfileType,
  Protocol,
  Signal,
} from "../../../src/gen/runtime/v1/api.js";
import { type ErrorCode, PodvmError } from "../../../src/host/errors.js";

type Sandbox = Parameters<typeof PodSandboxConfig.fromPartial>[0];
type Container = Parameters<typeof ContainerConfig.fromPartial>[0];
const metadata = { name: "p", uid: "u", namespace: "n" };
const sandbox = (part: Sandbox) => parseSandbox(PodSandboxConfig.fromPartial({ metadata, ...part }), "");
const container = (part: Container) =>
  parseContainer(ContainerConfig.fromPartial({ metadata: { name: "c" }, image: { image: "busybox" }, ...part }));

test("a sandbox as crictl sends it", (t) => {
  const parsed = sandbox({
    hostname: "h",
    logDirectory: "/var/log/pods/x",
    dnsConfig: { servers: ["10.0.0.10"], searches: ["svc.cluster.local"], options: ["ndots:5"] },
    portMappings: [
      { protocol: Protocol.UDP, containerPort: 53, hostPort: 5353, hostIp: "" },
      { protocol: Protocol.TCP, containerPort: 80, hostPort: 0 },
    ],
    linux: { cgroupParent: "/kubepods/burstable/pod1", resources: { memoryLimitInBytes: 1n << 27n } },
  });
  t.is(parsed.pidMode, "pod");
  t.deepEqual(parsed.portMappings, [{ protocol: "udp", containerPort: 53, hostPort: 5353, hostIp: "" }]);
  t.deepEqual(parsed.dns?.options, ["ndots:5"]);
  t.is(parsed.cgroupParent, "/kubepods/burstable/pod1");
  const slice = sandbox({ linux: { cgroupParent: "kubepods-pod1.slice" } });
  t.is(slice.cgroupParent, "/kubepods.slice/kubepods-pod1.slice");
  t.is(parsed.resources?.memoryLimit, 2 ** 27);
});

const sandboxFaults: [string, Sandbox, ErrorCode, RegExp][] = [
  ["no metadata", { metadata: undefined }, "invalid_argument", /metadata/],
  ["a name that is a path", { metadata: { ...metadata, name: "../x" } }, "invalid_argument", /metadata\.name/],
  [
    "a namespace that adds a CNI argument",
    { metadata: { ...metadata, namespace: "n;A=b" } },
    "invalid_argument",
    /namespace/,
  ],
  ["a relative log directory", { logDirectory: "logs" }, "invalid_argument", /log_directory/],
  ["a log directory with ..", { logDirectory: "/a/../b" }, "invalid_argument", /log_directory/],
  ["a name server that adds a line", { dnsConfig: { servers: ["1.1.1.1\noptions x"] } }, "invalid_argument", /servers/],
  [
    "a port out of range",
    { portMappings: [{ containerPort: 70_000, hostPort: 1 }] },
    "invalid_argument",
    /container_port/,
  ],
  ["a cgroup parent with ..", { linux: { cgroupParent: "/../x" } }, "invalid_argument", /cgroup_parent/],
  ["SELinux", { linux: { securityContext: { selinuxOptions: { type: "t" } } } }, "unimplemented", /SELinux/],
];
for (const [what, part, code, message] of sandboxFaults) {
  test(`a sandbox with ${what} is refused`, (t) => {
    const err = t.throws(() => sandbox(part), { instanceOf: PodvmError });
    t.is(err?.code, code);
    t.regex(err?.message ?? "", message);
  });
}

test("the host's namespaces that a sandbox asks for", (t) => {
  const options = (namespaceOptions: object) => sandbox({ linux: { securityContext: { namespaceOptions } } });
  t.is(options({}).hostNamespaces, undefined);
  t.deepEqual(options({ network: NamespaceMode.NODE }).hostNamespaces, ["network"]);
  t.deepEqual(options({ pid: NamespaceMode.NODE, ipc: NamespaceMode.NODE }).hostNamespaces, ["pid", "ipc"]);
});

test("a container as crictl sends it", (t) => {
  const parsed = container({
    command: ["sh"],
    envs: [{ key: "A", value: Buffer.from("ü") }],
    logPath: "c/0.log",
    stopSignal: Signal.SIGNAL_SIGUSR1,
    linux: {
      securityContext: {
        runAsUser: { value: 5n },
        runAsGroup: { value: 6n },
        capabilities: { addCapabilities: ["net_admin", "ALL"] },
      },
    },
  });
  t.deepEqual(parsed.env, [{ key: "A", value: "ü" }]);
  t.is(parsed.stopSignal, "SIGUSR1");
  t.deepEqual([parsed.security.runAsUser, parsed.security.runAsGroup], [5, 6]);
  t.deepEqual(parsed.security.addCapabilities, ["CAP_NET_ADMIN", "ALL"]);
});

test("seccomp: none is left to the configuration; the field counts before the string of old clients", (t) => {
  const choice = (securityContext: object) => container({ linux: { securityContext } }).security.seccomp;
  t.deepEqual(choice({}), { type: "unset" });
  t.deepEqual(choice({ seccomp: { profileType: ProfileType.RuntimeDefault } }), { type: "default" });
  t.deepEqual(choice({ seccomp: { profileType: ProfileType.Unconfined }, seccompProfilePath: "runtime/default" }), {
    type: "unconfined",
  });
  t.deepEqual(choice({ seccompProfilePath: "runtime/default" }), { type: "default" });
  t.deepEqual(choice({ seccompProfilePath: "localhost//p.json" }), { type: "localhost", path: "/p.json" });
});

const containerFaults: [string, Container, ErrorCode, RegExp][] = [
  ["no image", { image: { image: "" } }, "invalid_argument", /image/],
  ["a log path that leaves", { logPath: "../x" }, "invalid_argument", /log_path/],
  ["an absolute log path", { logPath: "/x" }, "invalid_argument", /log_path/],
  ["a relative working directory", { workingDir: "x" }, "invalid_argument", /working_dir/],
  ["a variable without a name", { envs: [{ key: "", value: Buffer.from("x") }] }, "invalid_argument", /envs/],
  ["NUL in an argument", { args: ["a\0b"] }, "invalid_argument", /args/],
  [
    "a group without a user",
    { linux: { securityContext: { runAsGroup: { value: 1n } } } },
    "invalid_argument",
    /run_as_group/,
  ],
  [
    "a capability that is no word",
    { linux: { securityContext: { capabilities: { addCapabilities: ["A B"] } } } },
    "invalid_argument",
    /capabilities/,
  ],
  [
    "a mount of nothing",
    { mounts: [{ containerPath: "/x" }] },
    "invalid_argument",
    /host_path or image, found "neither"/,
  ],
  [
    "a recursive read-only mount that is writable",
    { mounts: [{ hostPath: "/etc", containerPath: "/x", recursiveReadOnly: true }] },
    "invalid_argument",
    /readonly beside it/,
  ],
  [
    "a device without permissions",
    { devices: [{ hostPath: "/dev/sda", containerPath: "/dev/sda" }] },
    "invalid_argument",
    /permissions/,
  ],
  [
    "a seccomp profile at a relative path",
    { linux: { securityContext: { seccomp: { profileType: ProfileType.Localhost, localhostRef: "p.json" } } } },
    "invalid_argument",
    /localhost_ref/,
  ],
  [
    "an AppArmor profile of a policy namespace",
    { linux: { securityContext: { apparmor: { profileType: ProfileType.Localhost, localhostRef: ":ns:p" } } } },
    "invalid_argument",
    /apparmor.localhost_ref/,
  ],
  [
    "an AppArmor profile that is none of the three kinds",
    { linux: { securityContext: { apparmorProfile: "p" } } },
    "invalid_argument",
    /apparmor_profile/,
  ],
];
for (const [what, part, code, message] of containerFaults) {
  test(`a container with ${what} is refused`, (t) => {
    const err = t.throws(() => container(part), { instanceOf: PodvmError });
    t.is(err?.code, code);
    t.regex(err?.message ?? "", message);
  });
}
