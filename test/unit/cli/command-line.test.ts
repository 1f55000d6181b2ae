import { spawn } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import test from "ava";

const main = fileURLToPath(new URL("../../../src/main.js", import.meta.url));

interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** The real command, as a user starts it. */
function podvm(...args: string[]): Promise<Outcome> {
  const env = { PATH: process.env.PATH };
  const child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "pipe", "pipe"], env });
  const out = { stdout: "", stderr: "" };
  child.stdout.on("data", (chunk) => (out.stdout += chunk));
  child.stderr.on("data", (chunk) => (out.stderr += chunk));
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, ...out }));
  });
}

test("help names every command and the exit codes", async (t) => {
  const { code, stdout } = await podvm("--help");
  t.is(code, 0);
  for (const word of [
    "serve",
    "check",
    "run",
    "ps",
    "rm",
    "images",
    "bundle",
    "config",
    "metrics",
    "version",
    "Exit codes",
  ]) {
    t.true(stdout.includes(word), word);
  }
});

test("a command that is not there: exit code 2, with the nearest name", async (t) => {
  const { code, stderr } = await podvm("imges");
  t.is(code, 2);
  t.regex(stderr, /unknown command 'imges'[\s\S]*images/);
});

test("a bad option value: exit code 2, naming option, value and what is wanted", async (t) => {
  const { code, stderr } = await podvm("run", "--publish", "80", "busybox");
  t.is(code, 2);
  t.regex(stderr, /--publish.*'80' is invalid.*HOSTPORT:CONTAINERPORT/);
});

test("no server: exit code 1, or 125 from run, and what to do, without a stack trace", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-cli-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const socket = join(folder, "none.sock");
  const ps = await podvm("ps", "--socket", socket);
  t.is(ps.code, 1);
  t.is(ps.stderr, `podvm: wanted a PodVM server on ${socket}, found none (ENOENT); start it with \`podvm serve\`\n`);
  const run = await podvm("run", "--socket", socket, "busybox", "sh", "-c", "exit 3");
  t.is(run.code, 125);
  t.true(run.stderr.includes("podvm serve"));
  t.regex((await podvm("ps", "--debug", "--socket", socket)).stderr, /\n {4}at /);
});

test("a faulty configuration is told by every command that reads it", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-cli-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const config = join(folder, "config.toml");
  await writeFile(config, "[vm]\nacelerator = 'kvm'\n");
  for (const args of [["config", "check"], ["serve"], ["ps"], ["check"]]) {
    const { code, stderr } = await podvm(...args, "--config", config);
    t.is(code, 1, args.join(" "));
    t.true(stderr.includes("did you mean vm.accelerator?"), args.join(" "));
  }
  const missing = await podvm("serve", "--config", join(folder, "none.toml"));
  t.is(missing.code, 1);
  t.true(missing.stderr.includes("none.toml"));
});

test("config init writes what is missing and keeps what is there", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-cli-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const config = join(folder, "config.toml");
  const confDir = join(folder, "cni");
  await writeFile(config, `[network]\nconf_dir = "${confDir}"\n`);
  const first = await podvm("config", "init", "--config", config);
  t.is(first.code, 0, first.stderr);
  t.regex(first.stdout, /config\.toml exists: kept\nwrote .*10-podvm\.conflist/);
  const conflist = await readFile(join(confDir, "10-podvm.conflist"), "utf8");
  t.is(JSON.parse(conflist).name, "podvm");
  const second = await podvm("config", "init", "--config", config);
  t.true(second.stdout.includes("holds a network: kept"));
  t.is(await readFile(join(confDir, "10-podvm.conflist"), "utf8"), conflist);
});

test("config show prints the configuration in effect", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "podvm-cli-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const config = join(folder, "config.toml");
  await writeFile(config, `run_dir = "/run/elsewhere"\n`);
  const { code, stdout } = await podvm("config", "show", "--config", config);
  t.is(code, 0);
  t.like(JSON.parse(stdout), { socket: "/run/elsewhere/podvm.sock", socketMode: "0600", stateDir: "/var/lib/podvm" });
});
