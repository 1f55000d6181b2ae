/** The podvm command. */
import { release } from "node:os";
import { busybox } from "../support/manifests.js";
import { left, snapshot } from "../support/node.js";
import { suite } from "../support/suite.js";

const { test, podvm } = suite({ images: "all" });

test("podvm run: pulls, runs in a VM, passes output and exit code on, and leaves nothing", async (t) => {
  await podvm().cli(["run", "--quiet", busybox, "true"]);
  const before = await snapshot(podvm());
  const kernel = await podvm().cli(["run", "--quiet", "busybox:1.36", "uname", "-r"]);
  t.is(kernel.code, 0, kernel.stderr);
  t.regex(kernel.stdout, /^\d+\.\d+\.\S+\n$/);
  t.not(kernel.stdout.trim(), release());
  const failed = await podvm().cli([
    "run",
    "--quiet",
    "-e",
    "WHO=you",
    busybox,
    "sh",
    "-c",
    "echo out $WHO; echo err >&2; exit 9",
  ]);
  t.is(failed.code, 9, failed.stderr);
  t.is(failed.stdout, "out you\n");
  t.true(failed.stderr.includes("err\n"));
  t.deepEqual(await podvm().crictl.pods(), []);
  t.deepEqual(left(before, await snapshot(podvm())), {});
});

test("podvm run --timeout ends what goes on too long, with 124", async (t) => {
  const result = await podvm().cli(["run", "--quiet", "--timeout", "2", busybox, "sleep", "1000"]);
  t.is(result.code, 124, result.stderr);
  t.deepEqual(await podvm().crictl.pods(), []);
});

test("podvm run of an image that is not there: 125, and the reason", async (t) => {
  const result = await podvm().cli(["run", "docker.io/library/no-such-image:1"]);
  t.is(result.code, 125);
  t.true(result.stderr.includes("no-such-image"), result.stderr);
  t.deepEqual(await podvm().crictl.pods(), []);
});

test("podvm ps and podvm rm", async (t) => {
  const { podId, config } = await podvm().podWith({ name: "shown" });
  const table = await podvm().cli(["ps"]);
  t.is(table.code, 0, table.stderr);
  t.true(table.stdout.includes(config.metadata.name));
  t.true(table.stdout.includes("shown"));
  const json = await podvm().cli(["ps", "--json"]);
  t.true(JSON.stringify(JSON.parse(json.stdout)).includes(podId));
  const removed = await podvm().cli(["rm", config.metadata.name]);
  t.is(removed.code, 0, removed.stderr);
  t.deepEqual(await podvm().crictl.pods(), []);
});

test("podvm images lists, pulls with progress, removes", async (t) => {
  const pulled = await podvm().cli(["images", "pull", "ghcr.io/podvm-test/multi:1"]);
  t.is(pulled.code, 0, pulled.stderr);
  const listed = await podvm().cli(["images", "--json"]);
  t.true(JSON.stringify(JSON.parse(listed.stdout)).includes("ghcr.io/podvm-test/multi:1"), listed.stdout);
  t.true((await podvm().cli(["images"])).stdout.includes("ghcr.io/podvm-test/multi"));
  const removed = await podvm().cli(["images", "rm", "ghcr.io/podvm-test/multi:1"]);
  t.is(removed.code, 0, removed.stderr);
  t.false((await podvm().cli(["images", "--json"])).stdout.includes("podvm-test/multi"));
});

test("podvm check --json tells what the machine has; bundle list tells versions", async (t) => {
  const check = await podvm().cli(["check", "--json"]);
  t.true([0, 1].includes(check.code), check.stderr);
  const report = JSON.parse(check.stdout) as unknown;
  t.regex(JSON.stringify(report), /kvm/i);
  t.regex(JSON.stringify(report), /cni/i);
  const bundle = await podvm().cli(["bundle", "list"]);
  t.is(bundle.code, 0, bundle.stderr);
  for (const name of ["qemu", "kernel", "crun", "erofs"]) t.regex(bundle.stdout, new RegExp(name, "i"));
});

test("podvm version, help and unknown commands", async (t) => {
  const version = await podvm().cli(["version"]);
  t.is(version.code, 0, version.stderr);
  t.regex(version.stdout, /\d+\.\d+\.\d+/);
  t.regex((await podvm().cli(["help"])).stdout, /serve/);
  const wrong = await podvm().cli(["serv"]);
  t.is(wrong.code, 2);
  t.regex(wrong.stderr, /serve/);
});

test("commands without a server say how to start one", async (t) => {
  await podvm().stop();
  const result = await podvm().cli(["ps"]);
  t.is(result.code, 1);
  t.true(result.stderr.includes(podvm().socket), result.stderr);
  await podvm().start();
});
