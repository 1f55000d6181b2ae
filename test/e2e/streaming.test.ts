/** Exec and attach as users have them: through the real crictl, SPDY and WebSocket, into containers in VMs. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { run } from "../../src/host/run.js";
import { busybox, containerConfig } from "../support/manifests.js";
import { suite } from "../support/suite.js";
import { tool } from "../support/tools.js";
import { until } from "../support/until.js";

const { test, podvm } = suite();
let container = "";

const MIB = 1 << 20;

/** A crictl command with something on its standard input, which is then closed. */
function crictl(input: string, ...args: string[]) {
  return run([tool("crictl"), "--config", join(podvm().dir, "crictl", "crictl.yaml"), ...args], {
    deadlineMs: 120_000,
    input,
    okCodes: Array.from({ length: 256 }, (_, code) => code),
  });
}

/** Bytes and digest of the standard output of a crictl command. */
async function digest(args: string[]): Promise<{ bytes: number; sha256: string; code: number | null }> {
  const child = spawn(tool("crictl"), ["--config", join(podvm().dir, "crictl", "crictl.yaml"), ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const data of child.stdout) {
    bytes += (data as Buffer).length;
    hash.update(data as Buffer);
  }
  const code = child.exitCode ?? (await new Promise<number | null>((resolve) => child.once("exit", resolve)));
  return { bytes, sha256: hash.digest("hex"), code };
}

test("a container runs", async (t) => {
  await podvm().crictl.run("pull", busybox);
  container = (await podvm().podWith()).id;
  t.regex(container, /^[0-9a-f]{64}$/);
});

for (const transport of ["spdy", "websocket"]) {
  const exec = (input: string, ...args: string[]) => crictl(input, "exec", "-r", transport, ...args);

  test(`${transport}: both outputs and the exit code`, async (t) => {
    const ok = await exec("", container, "sh", "-c", "echo out; echo err >&2");
    t.is(ok.code, 0, ok.stderr);
    t.is(ok.stdout, "out\n");
    t.is(ok.stderr, "err\n");
    const failed = await exec("", container, "sh", "-c", "exit 7");
    t.not(failed.code, 0);
    t.regex(failed.stderr, /exit code 7/);
    const missing = await exec("", container, "no-such-command");
    t.regex(missing.stderr, /exit code 127/);
  });

  test(`${transport}: input until it is closed`, async (t) => {
    const input = "line\n".repeat(200_000);
    const result = await exec(input, "-i", container, "sh", "-c", "wc -c; echo done");
    t.is(result.code, 0, result.stderr);
    t.regex(result.stdout, /^\s*1000000\s+done\s*$/);
  });

  test(`${transport}: 8 MiB out, byte for byte`, async (t) => {
    const result = await digest(["exec", "-r", transport, container, "head", "-c", String(8 * MIB), "/dev/zero"]);
    t.is(result.code, 0);
    t.is(result.bytes, 8 * MIB);
    t.is(
      result.sha256,
      createHash("sha256")
        .update(Buffer.alloc(8 * MIB))
        .digest("hex"),
    );
  });

  test(`${transport}: a client that is killed takes its command along`, async (t) => {
    const child = spawn(
      tool("crictl"),
      ["--config", join(podvm().dir, "crictl", "crictl.yaml"), "exec", "-r", transport, container, "sleep", "4242"],
      { stdio: "ignore" },
    );
    const runs = async () =>
      (await podvm().crictl.exec(container, "sh", "-c", "ps | grep -c '[4]242' || true")) === "1";
    await until("the command runs", 60_000, runs);
    child.kill("SIGKILL");
    await until("the command is gone", 30_000, async () => !(await runs()));
    t.pass();
  });
}

test("a terminal: one output, its size, and the end of a shell", async (t) => {
  const config = join(podvm().dir, "crictl", "crictl.yaml");
  const command = `stty cols 101 rows 37; exec ${tool("crictl")} --config ${config} exec -it ${container} sh`;
  const script = spawn("script", ["-qec", command, "/dev/null"], { stdio: ["pipe", "pipe", "inherit"] });
  let said = "";
  script.stdout.on("data", (data) => {
    said += data;
  });
  await until("the prompt", 60_000, () => /[#$] /.test(said));
  script.stdin.write("stty size; tty; ls /nonexistent; exit 3\n");
  const code = await new Promise<number | null>((resolve) => script.once("exit", resolve));
  t.regex(said, /37 101/);
  t.regex(said, /\/dev\/pts\/\d+/);
  t.regex(said, /nonexistent: No such file/);
  t.not(code, 0);
});

test("attach: output from now on, input, and the container's end", async (t) => {
  const config = podvm().pod();
  const pod = await podvm().crictl.runp(config);
  const wanted = containerConfig({
    command: ["sh", "-c"],
    args: ["read line; echo got $line; echo err >&2"],
    stdin: true,
  });
  const id = await podvm().crictl.start(pod, wanted, config);
  const result = await crictl("hello\n", "attach", "-i", id);
  t.is(result.code, 0, result.stderr);
  t.regex(result.stdout, /got hello/);
  t.regex(result.stderr, /err/);
  const err = await podvm().crictl.fails("attach", id);
  t.regex(err, /wanted it running, it is exited/);
});

test("attach: input that is closed once closes the container's", async (t) => {
  const config = podvm().pod();
  const pod = await podvm().crictl.runp(config);
  const wanted = { ...containerConfig({ command: ["cat"], stdin: true }), stdin_once: true };
  const id = await podvm().crictl.start(pod, wanted, config);
  const result = await crictl("to the end", "attach", "-i", id);
  t.is(result.code, 0, result.stderr);
  t.is(result.stdout, "to the end");
  t.is((await podvm().crictl.inspect(id)).exitCode, 0);
});

test("port-forward: a server that listens on the pod's localhost only", async (t) => {
  const config = podvm().pod();
  const pod = await podvm().crictl.runp(config);
  const script = `head -c ${MIB} /dev/urandom > /tmp/file; exec httpd -f -p 127.0.0.1:8080 -h /tmp`;
  const id = await podvm().crictl.start(pod, containerConfig({ command: ["sh", "-c"], args: [script] }), config);
  await until("the server answers inside of the pod", 30_000, async () => {
    await podvm().crictl.exec(id, "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/file");
    return true;
  });
  const [sha256] = (await podvm().crictl.exec(id, "sha256sum", "/tmp/file")).split(" ", 1);
  for (const transport of ["spdy", "websocket"]) {
    const crictlConfig = join(podvm().dir, "crictl", "crictl.yaml");
    const args = ["--config", crictlConfig, "port-forward", "-r", transport, pod, "0:8080"];
    const forward = spawn(tool("crictl"), args, { stdio: ["ignore", "pipe", "inherit"] });
    t.teardown(() => forward.kill("SIGKILL"));
    let said = "";
    forward.stdout.on("data", (data) => {
      said += data;
    });
    const port = await until("the local port", 30_000, () => /Forwarding from 127\.0\.0\.1:(\d+)/.exec(said)?.[1]);
    const get = async () => Buffer.from(await (await fetch(`http://127.0.0.1:${port}/file`)).arrayBuffer());
    for (const bytes of await Promise.all([get(), get(), get()])) {
      t.is(createHash("sha256").update(bytes).digest("hex"), sha256 ?? "", `${transport}: ${bytes.length} bytes`);
    }
  }
});

test("requests that cannot be served are refused before there is a URL", async (t) => {
  t.regex(await podvm().crictl.fails("attach", "-i", container), /stdin was asked for, it was created without/);
  t.regex(await podvm().crictl.fails("exec", "0123456789ab", "true"), /there is no container/);
});
