/** Clients and commands that do not take what is sent to them: the others go on, and memory stays bounded, in the server and in the agent. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { until } from "../support/until.js";
import { SpdyClient } from "../unit/streaming/spdy-client.js";
import { agent, agentPid, agentTest, drive, MIB, type Result, server, shell } from "./streaming-rig.js";

/** Anonymous memory of the agent, bytes. */
function agentMemory(): number {
  const status = readFileSync(`/proc/${agentPid()}/status`, "utf8");
  return Number(/^RssAnon:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
}

/** Buffers of this process, which holds the server. */
function serverMemory(): number {
  global.gc?.();
  const { external, heapUsed } = process.memoryUsage();
  return external + heapUsed;
}

/** Starts a command by SPDY, and reads none of its output. */
async function deaf(script: string): Promise<SpdyClient> {
  const { client } = await SpdyClient.connect(server.url(shell(script)));
  client.socket.pause();
  for (const streamtype of ["error", "stdout", "stderr"]) await client.open({ streamtype });
  return client;
}

agentTest("commands that do not read their input keep nobody from the container", async (t) => {
  const stuck = Array.from({ length: 12 }, (_, n) => {
    const exec = agent.exec({ containerId: "c1", execId: `stuck-${n}`, args: ["sleep", "1000"], stdin: true });
    let sent = 0;
    const feeding = (async () => {
      for (;;) {
        await exec.write(Buffer.alloc(MIB / 4));
        sent += MIB / 4;
      }
    })().catch(() => {});
    return { exec, feeding, sent: () => sent };
  });
  t.teardown(async () => {
    for (const { exec } of stuck) exec.cancel();
    await Promise.all(stuck.map(({ feeding }) => feeding));
  });
  const total = () => stuck.reduce((sum, { sent }) => sum + sent(), 0);
  await until("all stand still", 30_000, async () => {
    const before = total();
    await sleep(1000);
    return before > 0 && total() === before && stuck.every(({ sent }) => sent() > 0);
  });
  const answer = await agent.execSync(
    { containerId: "c1", args: ["seq", "1"], timeoutMs: 20_000 },
    { deadlineMs: 30_000 },
  );
  t.is(answer.stdout.toString(), "1\n");
  const into = await drive<Result>(
    "exec",
    "-url",
    server.url(shell("wc -c", { stdin: true })),
    "-stdin-bytes",
    String(MIB),
  );
  t.is(Number(into.stdout.head), MIB, "another command gets its input");
});

agentTest("clients that read nothing: bounded memory, and their commands go with them", async (t) => {
  await drive<Result>("exec", "-url", server.url(shell(`head -c ${16 * MIB} /dev/zero`))); // what stays after the first use
  const [agentBefore, serverBefore] = [agentMemory(), serverMemory()];
  const clients = await Promise.all(Array.from({ length: 8 }, () => deaf("exec cat /dev/zero")));
  t.teardown(() => {
    for (const { socket } of clients) socket.destroy();
  });
  await until("all sessions run", 30_000, () => server.load.sessions === clients.length);
  await sleep(3000); // they fill what there is to fill
  const agentMore = agentMemory() - agentBefore;
  const serverMore = serverMemory() - serverBefore;
  t.true(agentMore < 8 * 1.5 * MIB, `the agent holds ${agentMore} bytes more for 8 clients`);
  t.true(serverMore < 8 * 4 * MIB, `the server holds ${serverMore} bytes more for 8 clients`);
  t.is((await agent.execSync({ containerId: "c1", args: ["seq", "1"], timeoutMs: 20_000 })).stdout.toString(), "1\n");

  for (const { socket } of clients) socket.resetAndDestroy();
  await until("the end of the sessions", 30_000, () => server.load.sessions === 0);
  await until("the end of the commands", 30_000, async () => {
    const script = "for p in /proc/[0-9]*; do cat $p/cmdline 2>/dev/null; echo; done";
    const list = await agent.execSync({ containerId: "c1", args: ["sh", "-c", script], timeoutMs: 20_000 });
    return !list.stdout.toString().includes("/dev/zero");
  });
  await until("the agent has given the memory back", 10_000, () => agentMemory() - agentBefore < MIB);
});

agentTest("a stream that goes on for long needs no more memory than a short one", async (t) => {
  const out = (bytes: number) => drive<Result>("exec", "-url", server.url(shell(`head -c ${bytes} /dev/zero`)));
  await out(16 * MIB);
  const before = agentMemory();
  const result = await out(256 * MIB);
  t.is(result.stdout.bytes, 256 * MIB);
  await until("the agent has given the memory back", 10_000, () => agentMemory() - before < MIB);
});
