/**
 * A node of its own for the CNI tests: the test file runs again inside fresh network and mount namespaces, so that bridges, routes and
 * iptables rules are made in nobody's tables and are gone with the last process.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, realpathSync } from "node:fs";
import { readdir, readFile, rm } from "node:fs/promises";
import { type AddressInfo, connect, createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { run } from "../../src/host/run.js";
import { projectRoot, tool } from "../support/tools.js";

const mark = "PODVM_TEST_CNI_NODE";
const isInside = process.env[mark] === "1";

export const bundle = () => realpathSync(join(tool("assets"), "bundle/current"));

/** A test that runs on the node of its own; one after another. Outside it reports what happened inside. */
export function onNode(fileUrl: string, title: string, body: (t: ExecutionContext) => Promise<void>): void {
  if (isInside) {
    test.serial(title, body);
    return;
  }
  test(title, async (t) => {
    inside ??= runInside(new URL(fileUrl).pathname);
    const { verdicts, output } = await inside;
    const verdict = verdicts.get(title);
    if (!verdict) return t.fail(`did not run on the node:\n${output.slice(-4000)}`);
    if (!verdict.ok) return t.fail(verdict.text);
    t.pass();
  });
}

interface Inside {
  verdicts: Map<string, { ok: boolean; text: string }>;
  output: string;
}
let inside: Promise<Inside> | undefined;

async function runInside(file: string): Promise<Inside> {
  // A tmpfs over /run/netns: the names made here are nobody else's. The tun device as udev would have it: open to everyone.
  const prepare =
    "mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip link set lo up && " +
    'mknod -m 0666 "$1" c 10 200 && mount --bind "$1" /dev/net/tun && rm "$1" && shift && exec "$@"';
  const tun = join(tmpdir(), `podvm-tun-${randomBytes(6).toString("hex")}`);
  const ava = [process.execPath, join(projectRoot, "node_modules/ava/entrypoints/cli.mjs")];
  const child = spawn(
    "unshare",
    [
      "--net",
      "--mount",
      "--propagation",
      "private",
      "sh",
      "-c",
      prepare,
      "sh",
      tun,
      ...ava,
      "--tap",
      "--timeout=2m",
      file,
    ],
    {
      cwd: projectRoot,
      env: { ...process.env, PATH: `${bundle()}/bin:${process.env.PATH}`, [mark]: "1" },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += chunk));
  await new Promise((resolve) => child.once("close", resolve));
  const verdicts: Inside["verdicts"] = new Map();
  for (const part of output.split(/\n(?=(?:not )?ok \d+ - )/)) {
    const found = /^(not )?ok \d+ - (.*)/m.exec(part);
    if (found?.[2]) verdicts.set(found[2], { ok: !found[1], text: part.slice(0, 6000) });
  }
  return { verdicts, output };
}

/** A folder that is gone after the test. */
export function folder(t: ExecutionContext): string {
  const path = mkdtempSync(join(tmpdir(), "podvm-cni-"));
  t.teardown(() => rm(path, { recursive: true, force: true }));
  return path;
}

/** Runs a script of Node in a network namespace until the test's end; resolves at the first line it prints. */
export async function serveIn(t: ExecutionContext, netns: string, script: string): Promise<string> {
  const child = spawn("nsenter", [`--net=${netns}`, process.execPath, "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.teardown(() => child.kill("SIGKILL"));
  return new Promise((resolve, reject) => {
    child.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString().trim()));
    child.once("exit", (code) => reject(new Error(`the server in ${netns} ended with ${code}`)));
  });
}

/** Answers each TCP connection with `name` and the address that it sees the client at. */
export function greeter(port: number, name: string): string {
  return `require("node:net").createServer((s) => s.end(${JSON.stringify(name)} + " " + s.remoteAddress))
    .listen(${port}, "::", () => console.log("listening"));`;
}

/** What the server at that address says until it closes. */
export function ask(host: string, port: number, ms = 5000): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port });
    let said = "";
    socket.setTimeout(ms, () => socket.destroy(new Error(`no answer from ${host} port ${port}`)));
    socket.on("data", (chunk) => (said += chunk));
    socket.once("error", reject);
    socket.once("close", (hadError) => !hadError && resolve(said));
  });
}

/** The same from inside a network namespace. */
export async function askFrom(netns: string, host: string, port: number): Promise<string> {
  const script = `const s = require("node:net").connect(${port}, ${JSON.stringify(host)});
    s.setTimeout(5000, () => s.destroy(new Error("no answer"))); s.pipe(process.stdout);`;
  return (await run(["nsenter", `--net=${netns}`, process.execPath, "-e", script], { deadlineMs: 10_000 })).stdout;
}

/** A port that is free now. */
export async function freePort(): Promise<number> {
  const server: Server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** What pods could leave on the node. */
export async function traces(leaseDir: string): Promise<Record<string, string[]>> {
  const lines = async (...argv: [string, ...string[]]) =>
    (await run(argv)).stdout.split("\n").filter((line) => line !== "");
  const rules = async (program: string) =>
    (await lines(`${bundle()}/bin/${program}`))
      .filter((line) => !line.startsWith("#"))
      .map((line) => line.replace(/\[\d+:\d+\]/, ""));
  return {
    netns: (await lines("ip", "netns", "list")).sort(),
    links: (await lines("ip", "-brief", "link")).map((line) => line.split(/\s+/)[0] ?? "").sort(),
    rules4: await rules("iptables-save"),
    rules6: await rules("ip6tables-save"),
    leases: (await readdir(leaseDir, { recursive: true }))
      .filter((name) => !/lock$|last_reserved_ip/.test(name))
      .sort(),
  };
}

/** Processes with exactly this command line (arguments end in a zero byte). */
export async function processes(commandLine: string): Promise<string[]> {
  const pids = (await readdir("/proc")).filter((entry) => /^\d+$/.test(entry));
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "")));
  return pids.filter((_, i) => lines[i] === commandLine);
}
