/** The server's side of the link against the real agent, run as a plain process, with real crun. */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import net from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import test from "ava";
import type { Agent } from "../../src/agent/client.js";
import { sayHello } from "../../src/agent/hello.js";
import { connectAgent } from "../../src/agent/link.js";
import { OutputPump } from "../../src/agent/output-pump.js";
import { type Event, type ExecResponse, Stream } from "../../src/gen/agent/v1/agent.js";
import { sleep } from "../../src/host/deadline.js";
import type { PodvmError } from "../../src/host/errors.js";
import { silentLogger } from "../../src/host/log.js";
import { endChild } from "../support/child.js";
import { containerRequest, makeRoot, session, torture, written } from "./agent-host.js";

function agentBinary(): string | undefined {
  if (process.env.PODVM_AGENT) return process.env.PODVM_AGENT;
  for (let folder = dirname(fileURLToPath(import.meta.url)); folder !== "/"; folder = dirname(folder)) {
    const found = join(folder, "target/x86_64-unknown-linux-musl/release/podvm-agent");
    if (existsSync(found)) return found;
  }
  return undefined;
}

function crunBinary(): string | undefined {
  const bundle = join(process.env.PODVM_ASSETS ?? "/var/lib/podvm/assets", "bundle/current/bin/crun");
  return [bundle, "/usr/bin/crun", "/usr/local/bin/crun"].find((path) => existsSync(path));
}

const binary = agentBinary();
const crun = crunBinary();
const lacking =
  (process.geteuid?.() !== 0 && "not root: containers cannot be made") ||
  (!binary && "no podvm-agent: build it (cargo build --release -p podvm-agent) or set PODVM_AGENT") ||
  (!crun && "no crun: neither in the runtime bundle nor installed");
if (lacking) console.log(`SKIPPED: contract tests of the agent link: ${lacking}`);
const run = lacking ? test.serial.skip : test.serial;

const dir = mkdtempSync(join(tmpdir(), "podvm-agent-link-"));
const socket = join(dir, "agent.sock");
let agentProcess: ChildProcess | undefined;

test.before(async () => {
  if (lacking || !binary || !crun) return;
  makeRoot(join(dir, "image"));
  const args = ["--listen", socket, "--state", join(dir, "state"), "--crun", crun];
  agentProcess = spawn(binary, args, { stdio: "ignore" });
  for (let i = 0; i < 1000 && !existsSync(socket); i++) await sleep(20);
  const agent = await connect();
  await agent.configureSandbox({ podId: "pod1", hostname: "test" });
  agent.close();
});

test.after.always(async () => {
  await endChild(agentProcess);
  rmSync(dir, { recursive: true, force: true });
});

function connect(path = socket): Promise<Agent> {
  return connectAgent({ path }, { deadlineMs: 30_000, logger: silentLogger });
}

const container = (id: string, script: string, stdin = false) =>
  containerRequest(id, `dir:${join(dir, "image")}`, script, stdin);

async function start(agent: Agent, id: string, script: string, stdin = false): Promise<void> {
  await agent.createContainer(container(id, script, stdin));
  await agent.startContainer(id);
}

/** A connection past the hello, on which anything can be written. */
async function greeted(): Promise<net.Socket> {
  const raw = net.connect(socket);
  raw.on("error", () => {});
  await sayHello(raw, AbortSignal.timeout(20_000));
  return raw;
}

function ended(raw: net.Socket): Promise<void> {
  raw.resume();
  if (raw.destroyed) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("the agent does not end the connection")), 20_000);
    raw.once("close", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

run("hello, versions, and the pod that it was made for", async (t) => {
  const agent = await connect();
  const hello = await agent.hello({ serverVersion: "test", protocol: 1 });
  t.is(hello.podId, "pod1");
  t.true(hello.features.includes("output-spool"));
  t.true(hello.protocol >= 1);
  const again = await connect();
  t.is((await again.hello({})).instance, hello.instance);
  again.close();
  agent.close();
});

run("garbage before the preamble, half a hello and silence hurt nobody", async (t) => {
  const half = net.connect(socket);
  half.on("error", () => {});
  half.write(Buffer.concat([Buffer.alloc(8, 0xff), Buffer.from("PODVM")]));
  await sleep(100);
  half.destroy();

  const silent = net.connect(socket);
  silent.on("error", () => {});
  await sleep(50);

  for (const garbage of [
    randomBytes(100_000),
    Buffer.alloc(5000, 0xff),
    Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
  ]) {
    const raw = net.connect(socket);
    raw.on("error", () => {});
    raw.write(garbage);
    await sayHello(raw, AbortSignal.timeout(20_000));
    t.false(raw.destroyed);
    raw.destroy();
  }
  const agent = await connect();
  t.is((await agent.hello({})).podId, "pod1");
  agent.close();
});

run("malformed HTTP/2 ends the connection, never the agent", async (t) => {
  const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  const frame = (length: number, type: number, flags: number, stream: number, payload: Buffer) => {
    const head = Buffer.alloc(9);
    head.writeUIntBE(length, 0, 3);
    head[3] = type;
    head[4] = flags;
    head.writeUInt32BE(stream, 5);
    return Buffer.concat([head, payload]);
  };
  const settings = frame(0, 4, 0, 0, Buffer.alloc(0));
  const bad = [
    Buffer.from("GET / HTTP/1.1\r\n\r\n"),
    Buffer.concat([preface, frame(0xffffff, 0, 0, 1, Buffer.alloc(100))]),
    Buffer.concat([preface, settings, frame(1 << 20, 0, 0, 1, Buffer.alloc(1 << 20))]),
    Buffer.concat([preface, settings, frame(4, 8, 0, 0, Buffer.alloc(4))]),
    Buffer.concat([preface, settings, frame(10, 1, 4, 1, randomBytes(10))]),
    Buffer.concat([preface, frame(7, 4, 0, 0, Buffer.alloc(7))]),
    Buffer.concat([preface, settings, frame(5, 0, 0, 99, Buffer.alloc(5))]),
  ];
  for (const bytes of bad) {
    const raw = await greeted();
    raw.end(bytes);
    await t.notThrowsAsync(ended(raw));
  }
  for (let i = 0; i < 20; i++) {
    const raw = await greeted();
    raw.end(Buffer.concat([preface, settings, randomBytes(1 + i * 500)]));
    await ended(raw);
  }
  const agent = await connect();
  t.is((await agent.hello({})).podId, "pod1");
  agent.close();
});

run("a request that is too large or wrong fails alone; the connection goes on", async (t) => {
  const agent = await connect();
  const huge = { containerId: "huge", args: [`x${"y".repeat(21 << 20)}`] };
  const tooLarge = await t.throwsAsync<PodvmError>(agent.execSync(huge));
  t.is(tooLarge?.code, "resource_exhausted");
  const bad = await t.throwsAsync<PodvmError>(agent.createContainer(container("../../etc/passwd", "true")));
  t.is(bad?.code, "invalid_argument");
  t.is((await t.throwsAsync<PodvmError>(agent.startContainer("nobody")))?.code, "not_found");
  await agent.removeContainer("nobody");
  t.is((await agent.hello({})).podId, "pod1");
  agent.close();
});

run("a newer connection ends the older", async (t) => {
  const older = await connect();
  const newer = await connect();
  await older.closed;
  t.is((await t.throwsAsync<PodvmError>(older.hello({})))?.code, "unavailable");
  t.is((await newer.hello({})).podId, "pod1");
  newer.close();
});

run("ExecSync, Exec with input, Input of a container, events and statistics", async (t) => {
  const link = session(socket);
  t.teardown(() => link.close());
  const events: Event[] = [];
  link.on("event", (event) => events.push(event));
  const agent = await link.agent(30_000);
  await start(agent, "work", "sleep 600");
  const done = await agent.execSync({
    containerId: "work",
    args: ["sh", "-c", "echo o; echo e >&2; exit 5"],
    timeoutMs: 20_000,
  });
  t.is(done.stdout.toString(), "o\n");
  t.is(done.stderr.toString(), "e\n");
  t.is(done.exitCode, 5);
  const late = await agent.execSync({ containerId: "work", args: ["sleep", "100"], timeoutMs: 300 });
  t.true(late.timedOut);

  const exec = agent.exec({ containerId: "work", execId: "e1", args: ["cat"], stdin: true });
  const messages: ExecResponse[] = [];
  const sent = randomBytes(3 << 20);
  const reading = (async () => {
    for (let message = await exec.next(); message; message = await exec.next()) messages.push(message);
  })();
  for (let at = 0; at < sent.length; at += 32_768) await exec.write(sent.subarray(at, at + 32_768));
  exec.closeStdin();
  await reading;
  t.true((messages[0]?.startedPid ?? 0) > 0);
  t.is(messages.at(-1)?.exit?.exitCode, 0);
  t.true(Buffer.concat(messages.map((message) => message.stdout ?? Buffer.alloc(0))).equals(sent));

  await start(agent, "cat", "cat", true);
  const input = agent.input("cat");
  await input.write(Buffer.from("to the container\n"));
  t.is(await input.end(true), 17n);
  t.is((await agent.waitContainer("cat", 20_000))?.exitCode, 0);
  const output = agent.output("cat", 0n, 0n);
  t.is((await output.next(1))?.[0]?.data.toString(), "to the container\n");
  output.cancel();

  const stats = await agent.stats(["work"]);
  t.is(stats.containers[0]?.containerId, "work");
  await agent.signalContainer("work", 9, true);
  t.like(await agent.waitContainer("work", 20_000), { exitCode: 137, signal: 9 });
  for (let i = 0; i < 500 && events.length < 2; i++) await sleep(10);
  t.deepEqual(events.map((event) => event.exited?.containerId).sort(), ["cat", "work"]);
  const list = await agent.listContainers();
  t.is(list.lastEventSeq, link.lastSeq);
  for (const id of ["work", "cat"]) await agent.removeContainer(id);
});

run("fifty cuts in mid-stream: the log is what the container wrote, to the byte", async (t) => {
  await torture(t, {
    name: "cut50",
    dir,
    target: socket,
    lines: 2_400_000,
    make: (script) => container("cut50", script),
  });
});

run("a server that is away holds the container back; it loses nothing", async (t) => {
  const agent = await connect();
  // More than the spool holds: it can only end when someone reads.
  await start(agent, "away", "head -c 3000000 /dev/zero; echo; echo done");
  t.is(await agent.waitContainer("away", 500), undefined);
  agent.close();
  const link = session(socket);
  t.teardown(() => link.close());
  const pump = await OutputPump.open({
    containerId: "away",
    source: link,
    logPath: join(dir, "logs", "away.log"),
    positionPath: join(dir, "logpos", "away"),
    logger: silentLogger,
  });
  t.true(await pump.drained(60_000));
  await pump.close();
  const text = await written([join(dir, "logs", "away.log")], "stdout");
  t.is(text.length, 3_000_000 + 6);
  t.true(text.startsWith("\0".repeat(3_000_000)) && text.endsWith("\0\ndone\n"));
  const first = (await readFile(join(dir, "logs", "away.log"))).subarray(0, 60).toString("latin1");
  t.regex(first, / stdout P \0+$/);
  await (await link.agent(10_000)).removeContainer("away");
});

run("a chunk that comes again is the same chunk, whatever reads it", async (t) => {
  const agent = await connect();
  await start(agent, "same", "seq 1 20000; printf tail");
  await agent.waitContainer("same", 20_000);
  const read = async (from: bigint) => {
    const stream = agent.output("same", from, 0n);
    const ends = new Map<bigint, string>();
    for (;;) {
      const chunks = (await stream.next(1 << 20)) ?? [];
      for (const { stream: name, offset, timeNs, data, eof } of chunks) {
        if (name !== Stream.STREAM_STDOUT) continue;
        if (!eof) ends.set(offset + BigInt(data.length), String(timeNs));
        else {
          stream.cancel();
          return ends;
        }
      }
    }
  };
  const first = await read(0n);
  t.deepEqual(await read(0n), first);
  const all = [...first.keys()];
  const middle = (all[0] ?? 0n) - 10n;
  t.deepEqual(await read(middle), first);
  await agent.removeContainer("same");
  agent.close();
});
