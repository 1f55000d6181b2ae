import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { AgentSession, type AgentSessionOptions } from "../../../src/agent/session.js";
import { type AgentServer, Event, LogRecord } from "../../../src/gen/agent/v1/agent.js";
import type { PodvmError } from "../../../src/host/errors.js";
import { type FakeAgent, fakeAgent, helloResponse } from "./fake-agent.js";
import { type Line, recorder } from "./support.js";

interface Setup {
  fake: FakeAgent;
  lines: Line[];
  session(extra?: Partial<AgentSessionOptions>): AgentSession;
}

async function setup(t: ExecutionContext, methods: Partial<AgentServer> = {}): Promise<Setup> {
  const folder = await mkdtemp(join(tmpdir(), "podvm-session-"));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const path = join(folder, "agent.sock");
  const fake = await fakeAgent(path, methods);
  t.teardown(() => fake.close());
  const lines: Line[] = [];
  return {
    fake,
    lines,
    session(extra = {}) {
      const options = { address: { path }, podId: "pod1", serverVersion: "test", logger: recorder(lines), ...extra };
      const session = new AgentSession(options);
      t.teardown(() => session.close());
      return session;
    },
  };
}

async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 2000 && !holds(); i++) await new Promise((resolve) => setTimeout(resolve, 10));
}

const exited = (seq: number) =>
  Event.fromPartial({ seq, timeNs: 1, exited: { containerId: `c${seq}`, exit: { exitCode: 0, timeNs: 1 } } });

test("gives an agent, and after a break the next one, and says so", async (t) => {
  const { fake, session } = await setup(t);
  const link = session();
  let again = 0;
  link.on("reconnected", () => {
    again += 1;
  });
  const first = await link.agent(20_000);
  t.is(link.hello?.kernel, "6.12");
  t.is(await link.agent(0), first);
  for (const socket of fake.sockets) socket.destroy();
  await first.closed;
  await until(() => again === 1);
  const second = await link.agent(20_000);
  t.not(second, first);
  t.is((await second.hello({})).instance, "i1");
  t.is(again, 1);
});

test("events come once each and in order over broken connections", async (t) => {
  const asked: bigint[] = [];
  let upTo = 3;
  const { fake, session } = await setup(t, {
    events: (call) => {
      call.on("error", () => {});
      asked.push(call.request.afterSeq);
      // One too many from the start: what is known already must not come twice.
      for (let seq = Math.max(1, Number(call.request.afterSeq)); seq <= upTo; seq++) call.write(exited(seq));
    },
  });
  const link = session();
  const seen: bigint[] = [];
  link.on("event", (event) => {
    seen.push(event.seq);
    if (event.seq === 2n) throw new Error("a bad listener");
  });
  await until(() => seen.length === 3);
  upTo = 6;
  for (const socket of fake.sockets) socket.destroy();
  await until(() => seen.length === 6);
  t.deepEqual(seen, [1n, 2n, 3n, 4n, 5n, 6n]);
  t.deepEqual(asked, [0n, 3n]);
  t.is(link.lastSeq, 6n);
});

test("lost events are told, and reading goes on with the first that is kept; a gap without that is refused", async (t) => {
  let gap = false;
  const { session, lines } = await setup(t, {
    events: (call) => {
      call.on("error", () => {});
      if (call.request.afterSeq === 0n) {
        call.write(Event.fromPartial({ seq: 10, timeNs: 1, lost: { firstSeq: 10 } }));
        call.write(exited(10));
      }
      if (!gap) {
        gap = true;
        call.write(exited(15));
      } else call.write(exited(11));
    },
  });
  const link = session();
  const seen: string[] = [];
  link.on("event", (event) => seen.push(event.lost ? "lost" : String(event.seq)));
  await until(() => seen.includes("11"));
  t.deepEqual(seen, ["lost", "10", "11"]);
  t.true(lines.some((line) => line.level === "warn" && /found 15/.test(String(line.fields.error))));
});

test("another agent behind the link is refused for good", async (t) => {
  let hello = helloResponse({ podId: "pod1" });
  const { fake, session } = await setup(t, { hello: (_, callback) => callback(null, hello) });
  for (const other of [
    helloResponse({ podId: "pod2" }),
    helloResponse({ podId: "pod1", instance: "i2" }),
    helloResponse({ podId: "" }),
    helloResponse({ podId: "pod1", protocol: 0 }),
  ]) {
    hello = helloResponse({ podId: "pod1" });
    const link = session();
    const failed = new Promise<PodvmError>((resolve) => link.once("failed", resolve));
    await link.agent(20_000);
    hello = other;
    for (const socket of fake.sockets) socket.destroy();
    t.is((await failed).code, "failed_precondition");
    t.is((await t.throwsAsync<PodvmError>(link.agent(1000)))?.code, "failed_precondition");
    await link.close();
  }
  hello = helloResponse({ podId: "pod1", instance: "i2" });
  const link = session({ instance: "i1" });
  t.regex((await t.throwsAsync<PodvmError>(link.agent(20_000)))?.message ?? "", /another instance/);
});

test("without an agent the wait ends at its deadline, naming why; close ends all waits", async (t) => {
  const { fake, session } = await setup(t);
  fake.options.mute = true;
  const link = session({ connectMs: 2000 });
  const err = await t.throwsAsync<PodvmError>(link.agent(5000));
  t.is(err?.code, "unavailable");
  t.regex(err?.message ?? "", /pod1 within 5000 ms: .*guest does not answer/);
  const waiting = link.agent(60_000);
  await link.close();
  t.is((await t.throwsAsync<PodvmError>(waiting))?.code, "cancelled");
  await new Promise((resolve) => setTimeout(resolve, 200)); // what was on its way is accepted
  const { connections } = fake;
  await new Promise((resolve) => setTimeout(resolve, 500));
  t.is(fake.connections, connections);
});

test("the guest's log is cleaned, bounded in rate, and raises no error of the server", async (t) => {
  const { session, lines } = await setup(t, {
    logs: (call) => {
      call.on("error", () => {});
      for (let seq = 1; seq <= 1000; seq++) {
        call.write(
          LogRecord.fromPartial({ seq, timeNs: 1, level: "error", message: `line ${seq}\x1b]0;title\x07\nnext` }),
        );
      }
    },
  });
  session();
  const fromGuest = () => lines.filter((line) => line.message.startsWith("line "));
  await until(() => fromGuest().length >= 200);
  await new Promise((resolve) => setTimeout(resolve, 200));
  t.true(fromGuest().length < 400);
  t.is(fromGuest()[0]?.message, "line 1\ufffd]0;title\ufffd next");
  t.false(lines.some((line) => line.level === "error"));
});
