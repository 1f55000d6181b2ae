import test from "ava";
import { parseContainer } from "../../../src/cri/parse-container.js";
import { ContainerConfig, NamespaceMode } from "../../../src/gen/runtime/v1/api.js";
import { PodvmError } from "../../../src/host/errors.js";
import { checkUserNamespace, securityFields } from "../../../src/pod/container-security.js";
import type { PodConfig } from "../../../src/pod/types.js";

const pod = (userNamespace?: PodConfig["userNamespace"]) => ({ userNamespace }) as PodConfig;
const own = { uidBase: 1000, gidBase: 1000, size: 65_536 };
const mappings = (hostId: number) => [{ containerId: 0, hostId, length: 65_536 }];
const container = (part: object, more: object = {}) =>
  parseContainer(
    ContainerConfig.fromPartial({
      metadata: { name: "c" },
      image: { image: "i" },
      linux: { securityContext: part },
      ...more,
    }),
  );
const withUserns = (hostId: number) =>
  container({ namespaceOptions: { usernsOptions: { uids: mappings(hostId), gids: mappings(hostId) } } });

test("a container is in its pod's user namespace, or asks for nothing", (t) => {
  const node = container({ namespaceOptions: { usernsOptions: { mode: NamespaceMode.NODE } } });
  t.notThrows(() => checkUserNamespace(pod(), container({})));
  t.notThrows(() => checkUserNamespace(pod(own), container({})));
  t.notThrows(() => checkUserNamespace(pod(own), withUserns(1000)));
  t.notThrows(() => checkUserNamespace(pod(), node));
  for (const [config, asked] of [
    [pod(own), withUserns(2000)],
    [pod(own), node],
    [pod(), withUserns(1000)],
  ] as const) {
    const err = t.throws(() => checkUserNamespace(config, asked), { instanceOf: PodvmError });
    t.is(err?.code, "invalid_argument");
    t.regex(err?.message ?? "", /wanted the pod's/);
  }
});

test("a mount is mapped to its pod's user namespace or not at all", (t) => {
  const mount = (hostId: number) =>
    container(
      {},
      {
        mounts: [{ hostPath: "/h", containerPath: "/c", uidMappings: mappings(hostId), gidMappings: mappings(hostId) }],
      },
    );
  t.notThrows(() => checkUserNamespace(pod(own), mount(1000)));
  t.regex(t.throws(() => checkUserNamespace(pod(own), mount(7)))?.message ?? "", /config.mounts \/c/);
  t.throws(() => checkUserNamespace(pod(), mount(1000)));
});

test("privileged gives all devices of the guest; a profile that is not loaded here is an error", async (t) => {
  t.deepEqual(await securityFields(container({ privileged: true })), {
    apparmorPolicy: Buffer.alloc(0),
    allDevices: true,
  });
  t.false((await securityFields(container({}))).allDevices);
  const err = await t.throwsAsync(securityFields(container({ apparmorProfile: "localhost/podvm-no-such-profile" })), {
    instanceOf: PodvmError,
  });
  t.regex(err?.message ?? "", /podvm-no-such-profile/);
});
