/** AppArmor inside the VM: the guest's kernel enforces a policy that was compiled elsewhere, whatever the host's kernel has. */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmod, mkdir, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import type { Agent } from "../../src/agent/client.js";
import { bundleTool } from "../../src/host/assets.js";
import { PodvmError } from "../../src/host/errors.js";
import { silentLogger } from "../../src/host/log.js";
import { run } from "../../src/host/run.js";
import { createQemuVmm } from "../../src/vmm/qemu/backend.js";
import type { VmSpec } from "../../src/vmm/vmm.js";
import { tool } from "../support/tools.js";
import { containerRequest, makeRoot, session as sessionWith } from "./agent-host.js";
import * as host from "./vmm-host.js";

const DEADLINE_MS = 60_000;

async function compiled(folder: string, name: string, rules: string): Promise<Buffer> {
  const source = join(folder, `${name}.profile`);
  await writeFile(source, `profile ${name} flags=(attach_disconnected) {\n${rules}\n}\n`);
  const features = join(tool("apparmor"), "features");
  const options = ["--skip-kernel-load", "--skip-cache", "--stdout", "--config-file", "/dev/null"];
  const known = ["--kernel-features", features, "--policy-features", features];
  return execFileSync(join(tool("apparmor"), "apparmor_parser"), [...options, ...known, source]);
}

async function vmWith(t: ExecutionContext, store: string): Promise<Agent> {
  makeRoot(join(store, "root"), ["touch"]);
  const path = join(store, "image.erofs");
  await run([bundleTool(host.assets(), "mkfs.erofs"), "--quiet", path, join(store, "root")]);
  await chmod(path, 0o444);
  const id = randomBytes(32).toString("hex");
  const { bundle, guest } = host.assets();
  const image = { imageId: "sha256:test", extents: [{ path, bytes: (await stat(path)).size }] };
  const spec: VmSpec = {
    id,
    dir: join(store, "vm"),
    runDir: `/run/podvm-test-${id.slice(0, 20)}`,
    uid: 231_997,
    cgroup: host.cgroupName(t),
    memoryMib: 256,
    vcpus: 1,
    guest,
    bundle,
    disks: [{ serial: "img-1", source: { kind: "image", image } }],
  };
  const vmm = createQemuVmm({ assets: host.assets(), logger: silentLogger, accelerator: "auto" });
  t.teardown(() => vmm.destroy(spec, DEADLINE_MS));
  const vm = await vmm.start(spec, DEADLINE_MS);
  t.teardown(() => vm.release());
  const session = sessionWith(vm.link.path);
  t.teardown(() => session.close());
  const agent = await session.agent(DEADLINE_MS);
  await agent.configureSandbox({ podId: "pod1", hostname: "test" });
  return agent;
}

test("a policy from outside is loaded and enforced; a broken one, and a name that it has not, are told apart", async (t) => {
  const store = await host.folder(t);
  const everything = "file,\ncapability,\nnetwork,\nsignal,\n";
  const denying = await compiled(store, "podvm-deny-write", `${everything}deny /** w,`);
  const auditing = await compiled(store, "podvm-audit-write", `${everything}audit /** w,`);
  await mkdir(join(store, "vm"), { recursive: true });
  const agent = await vmWith(t, store);

  const request = (id: string, script: string, profile: string, policy: Buffer) => {
    const made = containerRequest(id, "img-1", script);
    if (made.spec?.process && profile) made.spec.process.apparmorProfile = profile;
    return { ...made, apparmorPolicy: policy };
  };
  const exitOf = async (id: string, script: string, profile: string, policy: Buffer) => {
    await agent.createContainer(request(id, script, profile, policy));
    await agent.startContainer(id);
    return (await agent.waitContainer(id, DEADLINE_MS))?.exitCode;
  };
  const confined =
    'read label < /proc/self/attr/current; [ "$label" = "podvm-deny-write (enforce)" ] || exit 9; touch /tmp/foo';
  t.is(await exitOf("denied", confined, "podvm-deny-write", denying), 1);
  t.is(await exitOf("audited", "touch /tmp/foo", "podvm-audit-write", auditing), 0);
  t.is(await exitOf("again", "touch /tmp/foo", "podvm-deny-write", denying), 1);
  t.is(await exitOf("free", "touch /tmp/foo", "", Buffer.alloc(0)), 0);

  // Commands in the container are confined too.
  await agent.createContainer(request("exec", "sleep 600", "podvm-deny-write", denying));
  await agent.startContainer("exec");
  const touched = await agent.execSync({ containerId: "exec", args: ["touch", "/tmp/foo"], timeoutMs: DEADLINE_MS });
  t.not(touched.exitCode, 0);

  for (const [id, profile, policy, message] of [
    ["garbage", "podvm-x", Buffer.from("no policy"), /refuses the policy/],
    ["other", "podvm-no-such", denying, /brought no profile of that name/],
  ] as const) {
    const err = await t.throwsAsync(agent.createContainer(request(id, "true", profile, policy)), {
      instanceOf: PodvmError,
    });
    t.is(err?.code, "invalid_argument");
    t.regex(err?.message ?? "", message);
  }
  const { containers } = await agent.listContainers();
  t.false(containers.some(({ containerId }) => containerId === "garbage" || containerId === "other"));
});
