/** Pods without a virtual machine: only where the configuration allows them, and then like any other pod. */
import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { busybox } from "../support/manifests.js";
import { left, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";

const { test, podvm } = suite({ toml: { policy: 'host_namespaces = ["kube-system", "host-*"]' } });

const NODE = 2;
const namespaces = (options: Record<string, number>) => ({ security_context: { namespace_options: options } });
const hostNetwork = { namespace: "kube-system", linux: namespaces({ network: NODE }) };

async function verbose(podId: string): Promise<Record<string, unknown>> {
  const { info } = await podvm().crictl.json<{ info: Record<string, unknown> }>("inspectp", podId);
  return info;
}

test("a pod with the host's network sees its ports, runs commands, and leaves nothing", async (t) => {
  const { crictl } = podvm();
  await crictl.run("pull", busybox);
  await podvm().removePod((await podvm().podWith({}, hostNetwork)).podId); // makes folders that stay
  const server = createServer((_, response) => response.end("from the host"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.teardown(() => server.close());
  const { port } = server.address() as AddressInfo;
  const before = await snapshot(podvm());
  const { podId, id } = await podvm().podWith({}, hostNetwork);
  t.is(await crictl.exec(id, "wget", "-qO-", `http://127.0.0.1:${port}/`), "from the host");
  t.is(
    await crictl.exec(id, "readlink", "/proc/self/ns/net"),
    execFileSync("readlink", ["/proc/self/ns/net"], { encoding: "utf8" }).trim(),
  );
  t.is(await crictl.exec(id, "uname", "-r"), execFileSync("uname", ["-r"], { encoding: "utf8" }).trim());
  t.is(await crictl.exec(id, "hostname"), execFileSync("hostname", { encoding: "utf8" }).trim());
  t.is((await verbose(podId)).vmm, "host");
  t.is((await crictl.inspectp(podId)).network.ip ?? "", "");
  await podvm().removePod(podId);
  t.deepEqual(left(before, await snapshot(podvm())), {});
});
