import test from "ava";
import { parseContainer } from "../../../src/cri/parse-container.js";
import { parseSandbox } from "../../../src/cri/parse-sandbox.js";
import { ContainerConfig, PodSandboxConfig } from "../../../src/gen/runtime/v1/api.js";
import { hasCode } from "../../../src/host/errors.js";
import type { ImageRunConfig } from "../../../src/image/image.js";
import { buildSpec } from "../../../src/pod/oci-spec.js";

const image: ImageRunConfig = {
  user: "",
  env: ["PATH=/image", "A=image", "B=image"],
  entrypoint: ["/entry"],
  cmd: ["default"],
  workingDir: "/srv",
  stopSignal: "",
  labels: {},
  volumes: [],
  exposedPorts: [],
};
const pod = parseSandbox(
  PodSandboxConfig.fromPartial({ metadata: { name: "p", uid: "u", namespace: "n" }, hostname: "host" }),
  "",
);
const container = (part: Parameters<typeof ContainerConfig.fromPartial>[0]) =>
  parseContainer(ContainerConfig.fromPartial({ metadata: { name: "c" }, image: { image: "i" }, ...part }));
const spec = (part: Parameters<typeof ContainerConfig.fromPartial>[0], from = image) =>
  buildSpec(pod, container(part), from);

test("command and args replace entry point and cmd as CRI says", (t) => {
  t.deepEqual(spec({}).process?.args, ["/entry", "default"]);
  t.deepEqual(spec({ args: ["x"] }).process?.args, ["/entry", "x"]);
  t.deepEqual(spec({ command: ["/c"] }).process?.args, ["/c"]);
  t.deepEqual(spec({ command: ["/c"], args: ["x"] }).process?.args, ["/c", "x"]);
  const err = t.throws(() => spec({}, { ...image, entrypoint: [], cmd: [] }));
  t.true(hasCode(err, "invalid_argument"));
});

test("the container's variables overlay the image's", (t) => {
  const env = spec({ envs: [{ key: "A", value: Buffer.from("mine") }], tty: true }).process?.env ?? [];
  t.true(
    ["PATH=/image", "A=mine", "B=image", "HOSTNAME=host", "TERM=xterm"].every((line) => env.includes(line)),
    env.join(),
  );
  t.is(env.filter((line) => line.startsWith("A=")).length, 1);
});

test("working directory, read-only root, no new privileges", (t) => {
  t.is(spec({}).process?.cwd, "/srv");
  t.is(spec({ workingDir: "/w" }).process?.cwd, "/w");
  const secured = spec({ linux: { securityContext: { readonlyRootfs: true, noNewPrivs: true } } });
  t.true(secured.root?.readonly);
  t.true(secured.process?.noNewPrivileges);
});

test("a container sees its own cgroup as the root, and shares the guest's network, IPC and UTS", (t) => {
  t.deepEqual(
    spec({}).linux?.namespaces.map((namespace) => namespace.type),
    ["cgroup"],
  );
});

test("devices are denied, paths masked, sysfs read-only, unless privileged", (t) => {
  const masks = { maskedPaths: ["/proc/kcore"], readonlyPaths: ["/proc/sys"] };
  const plain = spec({ linux: { securityContext: masks } });
  t.deepEqual(
    plain.linux?.resources?.devices.map((rule) => rule.allow),
    [false],
  );
  t.deepEqual(plain.linux?.maskedPaths, ["/proc/kcore"]);
  t.true(plain.mounts.find((mount) => mount.destination === "/sys")?.options.includes("ro"));
  const privileged = spec({ linux: { securityContext: { ...masks, privileged: true } } });
  t.deepEqual(
    privileged.linux?.resources?.devices.map((rule) => rule.allow),
    [true],
  );
  t.deepEqual(privileged.linux?.maskedPaths, []);
  t.true(privileged.mounts.find((mount) => mount.destination === "/sys")?.options.includes("rw"));
});

test("limits", (t) => {
  const { resources } =
    spec({
      linux: { resources: { memoryLimitInBytes: 1000n, cpuQuota: 5000n, cpuPeriod: 10_000n, cpuShares: 512n } },
    }).linux ?? {};
  t.is(resources?.memory?.limit, 1000n);
  t.deepEqual([resources?.cpu?.quota, resources?.cpu?.period, resources?.cpu?.shares], [5000n, 10_000n, 512n]);
  t.is(spec({}).linux?.resources?.memory, undefined);
});
