import test from "ava";
import type { NetworkRequest } from "../../../src/network/network.js";
import { checkRequest } from "../../../src/network/request.js";

const request: NetworkRequest = {
  podId: "ab".repeat(32),
  podNamespace: "default",
  podName: "web-0",
  podUid: "2f1c",
  portMappings: [],
  uid: 60000,
};
const mapping = { protocol: "tcp" as const, containerPort: 80, hostPort: 8080, hostIp: "" };

test("mappings without a host port are dropped", (t) => {
  t.deepEqual(checkRequest({ ...request, portMappings: [{ ...mapping, hostPort: 0 }, mapping] }).portMappings, [
    mapping,
  ]);
});

const wrong: [string, Partial<NetworkRequest>, RegExp][] = [
  ["a path as id", { podId: "../x" }, /pod id/],
  ["an empty id", { podId: "" }, /pod id/],
  ["a name that forges CNI_ARGS", { podName: "a;K8S_POD_NAMESPACE=kube-system" }, /podName "a;K8S/],
  ["a control character", { podNamespace: "a\nb" }, /podNamespace/],
  ["a long uid", { podUid: "u".repeat(1025) }, /podUid/],
  ["a port out of range", { portMappings: [{ ...mapping, hostPort: 65536 }] }, /hostPort 65536: wanted 1 to 65535/],
  ["a container port of zero", { portMappings: [{ ...mapping, containerPort: 0 }] }, /containerPort 0/],
  ["an address that is none", { portMappings: [{ ...mapping, hostIp: "localhost" }] }, /address localhost/],
  ["too many mappings", { portMappings: Array.from({ length: 1025 }, () => mapping) }, /1025 port mappings/],
  ["a negative user", { uid: -1 }, /uid -1/],
];
for (const [what, change, message] of wrong) {
  test(`refused: ${what}`, (t) => {
    t.throws(() => checkRequest({ ...request, ...change }), { code: "invalid_argument", message });
  });
}
