import test from "ava";
import { podHostname } from "../../../src/pod/hostname.js";

test("the host name asked for, else the pod's name", (t) => {
  t.is(podHostname({ hostname: "web", name: "other" }), "web");
  t.is(podHostname({ hostname: "", name: "web-0" }), "web-0");
});

test("a long name is cut as kubelet cuts it", (t) => {
  const name = "create-PodSandbox-for-container-bc5ba61a-ade3-4b7c-94a3-9a8f36196f29";
  t.is(podHostname({ hostname: "", name }), name.slice(0, 63));
  t.is(podHostname({ hostname: "", name: `${"a".repeat(61)}-.bcd` }), "a".repeat(61));
});

test("characters that no host name has", (t) => {
  t.is(podHostname({ hostname: "", name: "a_b" }), "a-b");
});
