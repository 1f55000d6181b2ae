import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import test from "ava";
import type { Logger } from "../../../src/host/log.js";
import { silentLogger } from "../../../src/host/log.js";
import { createNotifier, watchdogMs } from "../../../src/observe/notify.js";

/** Stands for systemd: prints each datagram that comes in as a JSON line. */
const listener = `
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("bound", flush=True)
while True:
    data, fds, _, _ = socket.recv_fds(s, 4096, 4)
    print(json.dumps(data.decode()), flush=True)
    for fd in fds: os.close(fd)
`;

const has = (program: string) => spawnSync(program, ["--version"]).status === 0;

/** Kills what it started even when the test fails. */
async function listen(path: string, end: (stop: () => void) => void): Promise<AsyncIterator<string>> {
  const child: ChildProcess = spawn("python3", ["-c", listener, path], { stdio: ["ignore", "pipe", "inherit"] });
  end(() => child.kill("SIGKILL"));
  if (!child.stdout) throw new Error("no stdout");
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  await once(child, "spawn");
  if ((await lines.next()).value !== "bound") throw new Error("listener did not bind");
  return lines;
}

test("systemd hears READY, the watchdog, and STOPPING", async (t) => {
  if (!has("systemd-notify") || !has("python3")) {
    t.log("skipped: needs systemd-notify and python3, which this machine does not have");
    t.pass();
    return;
  }
  const folder = await mkdtemp(join(tmpdir(), "podvm-notify-"));
  t.teardown(() => rm(folder, { recursive: true }));
  const socket = join(folder, "s");
  const lines = await listen(socket, (stop) => t.teardown(stop));
  const next = async (): Promise<string> => {
    for (;;) {
      const message = JSON.parse((await lines.next()).value) as string;
      if (message !== "BARRIER=1") return message;
    }
  };
  const notifier = createNotifier(silentLogger, {
    PATH: process.env.PATH,
    NOTIFY_SOCKET: socket,
    WATCHDOG_USEC: "400000",
  });
  await notifier.ready("serving\non x");
  const ready = (await next()).split("\n");
  t.true(ready.includes("READY=1"));
  t.true(ready.includes("STATUS=serving on x"));
  t.true((await next()).split("\n").includes("WATCHDOG=1"));
  await notifier.stopping();
  let last = await next();
  while (last.includes("WATCHDOG=1")) last = await next(); // one may have been under way
  t.true(last.split("\n").includes("STOPPING=1"));
});

test("a notification that cannot be sent is a warning, not the end", async (t) => {
  const warnings: string[] = [];
  const logger: Logger = { ...silentLogger, warn: (message) => warnings.push(message) };
  await createNotifier(logger, { PATH: "/nonexistent", NOTIFY_SOCKET: "/nonexistent/socket" }).ready("x");
  t.deepEqual(warnings, ["cannot notify systemd"]);
});

test("without systemd nothing is done", async (t) => {
  const logger: Logger = { ...silentLogger, warn: () => t.fail() };
  const notifier = createNotifier(logger, {});
  await notifier.ready("x");
  await notifier.stopping();
  t.pass();
});

test("the watchdog answers at half of what systemd allows, and only for this process", (t) => {
  t.is(watchdogMs({ WATCHDOG_USEC: "60000000" }), 30_000);
  t.is(watchdogMs({ WATCHDOG_USEC: "60000000", WATCHDOG_PID: "5" }, 5), 30_000);
  t.is(watchdogMs({ WATCHDOG_USEC: "60000000", WATCHDOG_PID: "5" }, 6), undefined);
  t.is(watchdogMs({ WATCHDOG_USEC: "nonsense" }), undefined);
  t.is(watchdogMs({}), undefined);
});
