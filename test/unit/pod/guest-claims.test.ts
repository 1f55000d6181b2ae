/** What a guest says is brought into range before anybody else sees it. */
import test from "ava";
import { ExitRecord } from "../../../src/gen/agent/v1/agent.js";
import { Container } from "../../../src/pod/container.js";
import { exitOf, guestTime } from "../../../src/pod/container-exit.js";
import { PodRegistry } from "../../../src/pod/registry.js";
import type { ContainerDocument } from "../../../src/pod/types.js";

const nowNs = () => BigInt(Date.now()) * 1_000_000n;

test("a time of the past or of now is kept to the nanosecond, one of the future or before 1970 is now", (t) => {
  t.is(guestTime(1_700_000_000_123_456_789n), "1700000000123456789");
  for (const wrong of [0n, -1n, -(2n ** 63n), 2n ** 62n, nowNs() + 3_600_000_000_000n]) {
    const from = nowNs();
    const told = BigInt(guestTime(wrong));
    t.true(told >= from && told <= nowNs(), `${wrong}`);
  }
  const ahead = nowNs() + 5_000_000_000n; // clocks differ
  t.is(guestTime(ahead), `${ahead}`);
});

test("an exit has a code of one byte and CRI's reasons", (t) => {
  const exit = (record: Partial<ExitRecord>) => exitOf(ExitRecord.fromPartial(record));
  t.like(exit({ exitCode: 0 }), { exitCode: 0, reason: "Completed" });
  t.like(exit({ exitCode: 256 + 3 }), { exitCode: 3, reason: "Error" });
  t.like(exit({ exitCode: -1 }), { exitCode: 255, reason: "Error" });
  t.like(exit({ exitCode: 137, oomKilled: true }), { exitCode: 137, reason: "OOMKilled" });
});

test("a guest names containers by their whole id, and only those of its pod", (t) => {
  const registry = new PodRegistry();
  const id = "a".repeat(64);
  const document = { id, podId: "pod-1", config: { name: "c", attempt: 0 } } as unknown as ContainerDocument;
  const container = new Container(document);
  registry.addContainer(container);
  t.is(registry.findContainer("aa"), container, "people may shorten it");
  t.is(registry.containerOf("pod-1", id), container);
  t.is(registry.containerOf("pod-1", "aa"), undefined);
  t.is(registry.containerOf("pod-1", ""), undefined);
  t.is(registry.containerOf("pod-2", id), undefined);
});
