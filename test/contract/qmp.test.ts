/** The QMP client against a real QEMU, and against ends that do not keep to the protocol (these a real QEMU cannot play). */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { bundleTool } from "../../src/host/assets.js";
import { hasCode } from "../../src/host/errors.js";
import { Qmp, QmpRefused } from "../../src/vmm/qemu/qmp.js";
import { until } from "../support/until.js";
import { assets } from "./vmm-host.js";

const deadline = 20_000;
const socketPath = () => join(tmpdir(), `podvm-qmp-${randomBytes(6).toString("hex")}.sock`);

/** A QEMU without a machine, its control socket reachable. */
async function qemu(t: ExecutionContext): Promise<{ path: string; child: ChildProcess }> {
  const path = socketPath();
  const argv = ["-nodefaults", "-no-user-config", "-M", "none", "-display", "none"];
  argv.push("-chardev", `socket,id=qmp,path=${path},server=on,wait=off`, "-mon", "chardev=qmp,mode=control");
  const child = spawn(bundleTool(assets(), "qemu-system-x86_64"), argv, { stdio: "ignore" });
  t.teardown(async () => {
    child.kill("SIGKILL");
    if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
    await rm(path, { force: true });
  });
  const first = await until("QEMU's control socket", deadline, () => Qmp.connect(path, deadline));
  first.close();
  return { path, child };
}

async function connect(t: ExecutionContext, path: string): Promise<Qmp> {
  const qmp = await Qmp.connect(path, deadline);
  t.teardown(() => qmp.close());
  return qmp;
}

test("commands sent at once get each its own answer", async (t) => {
  const qmp = await connect(t, (await qemu(t)).path);
  const asked = ["query-status", "query-name", "query-version", "query-kvm", "query-status"];
  const answers = await Promise.all(asked.map((command) => qmp.execute(command, {}, deadline)));
  t.like(answers[0], { running: true });
  t.deepEqual(answers[1], {});
  t.like(answers[2], { qemu: { major: 10 } });
  t.like(answers[3], { enabled: false });
  t.deepEqual(answers[4], answers[0]);
});

test("a refused command says why and leaves the connection in order", async (t) => {
  const qmp = await connect(t, (await qemu(t)).path);
  const err = await t.throwsAsync(qmp.execute("device_del", { id: "nothing" }, deadline), { instanceOf: QmpRefused });
  t.is(err?.qmpClass, "DeviceNotFound");
  t.regex(err?.message ?? "", /device_del.*nothing/);
  const unknown = await t.throwsAsync(qmp.execute("no-such-thing", {}, deadline), { instanceOf: QmpRefused });
  t.is(unknown?.qmpClass, "CommandNotFound");
  t.like(await qmp.execute("query-status", {}, deadline), { running: true });
});

test("events arrive, and none after the listener is taken off", async (t) => {
  const qmp = await connect(t, (await qemu(t)).path);
  const seen: string[] = [];
  const off = qmp.onEvent(({ name }) => seen.push(name));
  await qmp.execute("stop", {}, deadline);
  await until("STOP", deadline, () => seen.includes("STOP"));
  off();
  await qmp.execute("cont", {}, deadline);
  await qmp.execute("query-status", {}, deadline);
  t.deepEqual(seen, ["STOP"]);
});

test("a server that comes back finds QEMU ready for it, fifty times", async (t) => {
  const { path } = await qemu(t);
  for (let i = 0; i < 50; i++) {
    const qmp = await Qmp.connect(path, deadline);
    const asked = qmp.execute("query-status", {}, deadline);
    if (i % 2 === 0) t.like(await asked, { running: true });
    else asked.catch(() => {}); // gone in the midst of a command
    qmp.close();
  }
  t.like(await (await connect(t, path)).execute("query-status", {}, deadline), { running: true });
});

test("a second client waits until the first is gone", async (t) => {
  const { path } = await qemu(t);
  const first = await Qmp.connect(path, deadline);
  const second = Qmp.connect(path, deadline);
  t.like(await first.execute("query-status", {}, deadline), { running: true });
  first.close();
  t.teardown(async () => (await second).close());
  t.like(await (await second).execute("query-status", {}, deadline), { running: true });
});

test("the end of QEMU ends the connection and what waits on it", async (t) => {
  const { path, child } = await qemu(t);
  const qmp = await connect(t, path);
  child.kill("SIGSTOP");
  const waiting = qmp.execute("query-status", {}, deadline);
  child.kill("SIGKILL");
  t.true(hasCode(await t.throwsAsync(waiting), "unavailable"));
  t.true(hasCode(await qmp.closed, "unavailable"));
  t.true(hasCode(await t.throwsAsync(qmp.execute("query-status", {}, deadline)), "unavailable"));
});

test("a QEMU that does not answer costs the deadline, and its late answer is dropped", async (t) => {
  const { path, child } = await qemu(t);
  const qmp = await connect(t, path);
  child.kill("SIGSTOP");
  t.true(hasCode(await t.throwsAsync(qmp.execute("query-name", {}, 50)), "deadline_exceeded"));
  child.kill("SIGCONT");
  t.like(await qmp.execute("query-status", {}, deadline), { running: true });
});

test("nobody listening is unavailable", async (t) => {
  t.true(hasCode(await t.throwsAsync(Qmp.connect(socketPath(), deadline)), "unavailable"));
});

/** An end that says what it is told to; its path. */
async function hostile(t: ExecutionContext, talk: (socket: Socket) => void): Promise<string> {
  const path = socketPath();
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {}); // the client hangs up: that is the point
    talk(socket);
  });
  server.listen(path);
  await once(server, "listening");
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return path;
}

const greeting = '{"QMP": {"version": {"package": "x"}, "capabilities": []}}\n';
/** Greets, agrees to the capabilities, then answers the first command with `text`. */
const afterHello = (text: string) => (socket: Socket) => {
  socket.write(greeting);
  socket.once("data", () => {
    socket.write('{"return": {}, "id": 1}\r\n');
    socket.once("data", () => socket.write(text));
  });
};

test("an end that never greets costs the deadline", async (t) => {
  const path = await hostile(t, () => {});
  t.true(hasCode(await t.throwsAsync(Qmp.connect(path, 100)), "deadline_exceeded"));
});

test("answers out of form end the connection", async (t) => {
  const lies = [
    "not json\n",
    "\n",
    "[]\n",
    '"text"\n',
    '{"return": {}, "id": 99}\n',
    '{"return": {}}\n',
    '{"error": {"class": "GenericError", "desc": "no id"}}\n',
    '{"error": "text", "id": 2}\n',
    '{"event": 5}\n',
    `{"event": "${"x".repeat(100)}"}\n`,
    "\u0000\n",
  ];
  for (const lie of lies) {
    const qmp = await connect(t, await hostile(t, afterHello(lie)));
    const err = await t.throwsAsync(qmp.execute("query-status", {}, deadline));
    t.true(hasCode(err, "unavailable"), lie);
    t.regex(err?.message ?? "", /^QMP: the VMM sent/, lie);
  }
});

test("a line without end is cut off", async (t) => {
  const path = await hostile(t, (socket) => {
    const more = () => {
      while (!socket.destroyed && socket.write("x".repeat(1 << 16)));
    };
    socket.on("drain", more);
    more();
  });
  const err = await t.throwsAsync(Qmp.connect(path, deadline));
  t.regex(err?.message ?? "", /a line longer than/);
});

test("a message cut anywhere is put together again", async (t) => {
  const path = await hostile(t, (socket) => {
    const slowly = async (text: string) => {
      for (const byte of Buffer.from(text)) {
        socket.write(Buffer.from([byte]));
        await new Promise(setImmediate);
      }
    };
    void slowly(greeting);
    socket.once("data", () => {
      void slowly('{"return": {}, "id": 1}\n').then(() => {
        socket.once("data", () => void slowly('{"return": "größer", "id": 2}\n'));
      });
    });
  });
  const qmp = await connect(t, path);
  t.is(await qmp.execute("query-status", {}, deadline), "größer");
});
