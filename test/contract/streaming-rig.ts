/** What the tests of streaming down to the agent share: the real agent as a plain process, one container in it, and a streaming server in front. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import type { Agent } from "../../src/agent/client.js";
import { connectAgent } from "../../src/agent/link.js";
import { OutputPump } from "../../src/agent/output-pump.js";
import { Mount as OciMount } from "../../src/gen/oci/v1/spec.js";
import { silentLogger } from "../../src/host/log.js";
import { run } from "../../src/host/run.js";
import type { PodContext } from "../../src/pod/context.js";
import { createStreamBackend } from "../../src/pod/stream-backend.js";
import { createStreamingServer, type StreamingServer } from "../../src/streaming/server.js";
import { endChild } from "../support/child.js";
import { projectRoot, toolIfThere } from "../support/tools.js";
import { until } from "../support/until.js";
import { command } from "../unit/streaming/echo-backend.js";
import { containerRequest, makeRoot } from "./agent-host.js";

const client = toolIfThere("stream-client");
const binary = process.env.PODVM_AGENT ?? join(projectRoot, "target/x86_64-unknown-linux-musl/release/podvm-agent");
const assets = toolIfThere("assets") ?? process.env.PODVM_ASSETS ?? "/var/lib/podvm/assets";
const crun = [join(assets, "bundle/current/bin/crun"), "/usr/bin/crun"].find((path) => existsSync(path));
const lacking =
  (process.geteuid?.() !== 0 && "not root: containers cannot be made") ||
  (!existsSync(binary) && "no podvm-agent: build it (make agent) or set PODVM_AGENT") ||
  (!crun && "no crun: neither in the runtime bundle nor installed") ||
  (!client && "no stream-client: make test-setup builds it");
if (lacking) console.log(`skipped: streaming down to the agent: ${lacking}`);
export const agentTest = lacking ? test.serial.skip : test.serial;

export const MIB = 1 << 20;
const dir = mkdtempSync(join(tmpdir(), "podvm-streaming-"));
const socket = join(dir, "agent.sock");
let agentProcess: ChildProcess | undefined;
export let agent: Agent;
export let server: StreamingServer;
const pumps = new Map<string, OutputPump>();
const configs = new Map<string, { stdin: boolean; stdinOnce: boolean; tty: boolean }>();

test.before(async () => {
  if (lacking || !crun) return;
  makeRoot(join(dir, "image"), ["wc", "stty"]);
  agentProcess = spawn(binary, ["--listen", socket, "--state", join(dir, "state"), "--crun", crun], {
    stdio: "ignore",
  });
  await until("the agent listens", 20_000, () => existsSync(socket));
  agent = await connectAgent({ path: socket }, { deadlineMs: 30_000, logger: silentLogger });
  await agent.configureSandbox({ podId: "pod1", hostname: "test" });
  // Of the pod room only what looks containers and agents up is stood in for.
  const registry = {
    container: (id: string) => ({
      id,
      running: true,
      pump: pumps.get(id),
      document: { podId: "pod1", config: configs.get(id) ?? { stdin: false, stdinOnce: false, tty: false } },
    }),
    pod: () => ({ ready: true, agent: async () => agent }),
  };
  const context = { registry, logger: silentLogger } as unknown as PodContext;
  server = createStreamingServer({ backend: createStreamBackend(context), logger: silentLogger });
  await server.listen();
  const request = containerRequest("c1", `dir:${join(dir, "image")}`, "sleep 1000");
  const terminals = ["newinstance", "ptmxmode=0666", "mode=0620"];
  request.spec?.mounts.push(
    OciMount.fromPartial({ source: "devpts", type: "devpts", destination: "/dev/pts", options: terminals }),
  );
  await agent.createContainer(request);
  await agent.startContainer("c1");
});

test.after.always(async () => {
  await server?.close();
  for (const pump of pumps.values()) await pump.close();
  agent?.close();
  await endChild(agentProcess);
  rmSync(dir, { recursive: true, force: true });
});

export interface Result {
  stdout: { bytes: number; head: string };
  stderr: { bytes: number; head: string };
  code: number;
  error: string;
}

export async function drive<T>(...args: string[]): Promise<T> {
  const { stdout } = await run([client ?? "", ...args], { deadlineMs: 100_000, maxOutput: MIB });
  return JSON.parse(stdout) as T;
}

/** The agent's process. */
export const agentPid = () => agentProcess?.pid ?? 0;

/** A shell script in the container, as exec. */
export function shell(script: string, more: Parameters<typeof command>[1] = {}) {
  return { ...command("-", more), command: ["sh", "-c", script] };
}

/** A container that can be attached to. */
export async function attachable(
  id: string,
  script: string,
  config: { stdin: boolean; stdinOnce: boolean },
): Promise<void> {
  const request = containerRequest(id, `dir:${join(dir, "image")}`, script, config.stdin);
  await agent.createContainer({ ...request, stdinOnce: config.stdinOnce });
  const pump = await OutputPump.open({
    containerId: id,
    source: { agent: async () => agent },
    positionPath: join(dir, `${id}.pos`),
    logger: silentLogger,
  });
  pumps.set(id, pump);
  configs.set(id, { ...config, tty: false });
  await agent.startContainer(id);
}

/** A server that echoes, in the namespace that the agent dials in. Its port. */
export async function listener(t: ExecutionContext, address: string): Promise<number> {
  const echo = net.createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    socket.pipe(socket);
  });
  await new Promise<void>((resolve) => echo.listen(0, address, resolve));
  t.teardown(() => echo.close());
  return (echo.address() as net.AddressInfo).port;
}
