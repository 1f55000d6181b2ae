/** What does not work says so clearly, and leaves nothing behind. */
import { mkdir, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { run } from "../../src/host/run.js";
import { containerConfig } from "../support/manifests.js";
import { left, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";
import { tool } from "../support/tools.js";

const { test, podvm, server } = suite({ images: "all" });

test("a configuration with an unknown key does not start, and names the key that was meant", async (t) => {
  const own = await server(t, { toml: { vm: "default_memory_mb = 512" } });
  const result = await own.startFails();
  t.not(result.code, 0);
  t.regex(result.stderr, /vm\.default_memory_mb/);
  t.regex(result.stderr, /did you mean vm\.default_memory_mib/);
  t.notRegex(result.stderr, /\n\s+at /, "no stack trace");
});

test("a configuration with a wrong type or a mistake in its TOML does not start, and says where", async (t) => {
  const own = await server(t, { toml: { vm: 'default_vcpus = "two"' } });
  const result = await own.startFails();
  t.not(result.code, 0);
  t.regex(result.stderr, /vm\.default_vcpus: wanted an integer/);
  await writeFile(own.configFile, 'state_dir = "/x\n[vm');
  const broken = await own.startFails();
  t.not(broken.code, 0);
  t.regex(broken.stderr, /config\.toml:1:/);
  await rm(own.configFile);
  t.regex((await own.startFails()).stderr, /config\.toml/);
});

test("a second server on the same socket or state is refused, and the first goes on", async (t) => {
  const second = await podvm().startFails(30_000);
  t.not(second.code, 0);
  t.regex(second.stderr, /already|in use|another/i);
  t.regex(await podvm().crictl.run("version"), /podvm/);
});

test("without the guest's kernel the server says what is missing and how to get it", async (t) => {
  const own = await server(t);
  const assets = join(own.dir, "assets");
  await mkdir(join(assets, "guest/broken"), { recursive: true });
  await symlink(join(tool("assets"), "bundle"), join(assets, "bundle"));
  await symlink(join(tool("assets"), "bin"), join(assets, "bin"));
  for (const name of ["initrd", "manifest.json"]) {
    await symlink(join(tool("assets"), "guest/current", name), join(assets, "guest/broken", name));
  }
  await symlink("broken", join(assets, "guest/current"));
  const text = await import("node:fs/promises").then((fs) => fs.readFile(own.configFile, "utf8"));
  await writeFile(own.configFile, text.replace(/^assets_dir = .*$/m, `assets_dir = "${assets}"`));
  const result = await own.startFails();
  t.not(result.code, 0);
  t.regex(result.stderr, /vmlinux/);
  t.regex(result.stderr, /make setup/);
});

test("pods that ask for the host's namespaces are refused clearly", async (t) => {
  const { crictl } = podvm();
  const before = await snapshot(podvm());
  const node = 2;
  for (const [kind, options] of [
    ["network", { network: node }],
    ["network", { network: node, pid: node }],
    ["ipc", { ipc: node }],
  ] as const) {
    const config = podvm().pod({ linux: { security_context: { namespace_options: options } } });
    const said = await crictl.fails("runp", await crictl.file(config));
    t.regex(said, new RegExp(`host.*${kind}|${kind}.*host`, "is"), kind);
    t.regex(said, /namespace/i);
  }
  t.deepEqual(await crictl.pods(), []);
  t.deepEqual(left(before, await snapshot(podvm())), {});
});

test("a pod request that makes no sense is refused as such", async (t) => {
  const { crictl } = podvm();
  const good = podvm().pod();
  const bad: [string, object][] = [
    ["no metadata", { ...good, metadata: undefined }],
    ["no name", { ...good, metadata: { ...good.metadata, name: "" } }],
    ["hostname with a slash", { ...good, hostname: "a/b" }],
    ["relative log directory", { ...good, log_directory: "logs" }],
    ["unknown handler", {}],
  ];
  for (const [what, config] of bad.slice(0, -1)) {
    t.regex(await crictl.fails("runp", await crictl.file(config)), /InvalidArgument|metadata|name/, what);
  }
  t.regex(await crictl.fails("runp", "--runtime", "no-such-handler", await crictl.file(good)), /no-such-handler/);
  t.deepEqual(await crictl.pods(), []);
});

test("on a full disk a pull and a pod fail with the reason, nothing is left, and both work once there is space", async (t) => {
  t.timeout(600_000);
  const own = await server(t);
  // a file system of its own for the state, 300 MB
  const disk = join(own.dir, "disk");
  await run(["truncate", "-s", "300M", disk]);
  await run(["mkfs.ext4", "-q", "-m", "0", disk]);
  await run(["mount", "-o", "loop", disk, own.stateDir]);
  t.teardown(async () => {
    await run(["umount", "-l", own.stateDir], { okCodes: [0, 1, 32] });
  });
  await own.start();
  await own.warmUp();
  const before = await snapshot(own);
  const fill = join(own.stateDir, "filler");
  await run(["dd", "if=/dev/zero", `of=${fill}`, "bs=1M"], { okCodes: [1], deadlineMs: 120_000 });

  const pull = await own.crictl.fails("pull", "quay.io/podvm-test/big:1");
  t.regex(pull, /ResourceExhausted/);
  t.is((await own.crictl.images()).length, 1);
  const config = own.pod();
  const pod = await own.crictl.attempt(["runp", await own.crictl.file(config)]);
  t.not(pod.code, 0);
  t.regex(pod.stderr, /ResourceExhausted/);
  t.true(pod.stderr.includes(own.stateDir), pod.stderr);
  await rm(fill);
  t.deepEqual(await own.crictl.pods(), []);
  t.deepEqual(left(before, await snapshot(own)), {});

  await own.crictl.run("pull", "quay.io/podvm-test/big:1");
  const id = await own.crictl.runp(config);
  const container = await own.crictl.start(id, containerConfig(), config);
  t.is(await own.crictl.exec(container, "echo", "works"), "works");
});
