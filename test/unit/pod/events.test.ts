import test from "ava";
import { type ContainerEvent, PodEvents } from "../../../src/pod/events.js";
import { Pod } from "../../../src/pod/pod.js";
import type { PodDocument } from "../../../src/pod/types.js";

const pod = new Pod({ id: "p" } as PodDocument);

test("every listener hears of everything, until it ends", (t) => {
  const events = new PodEvents();
  const [first, second]: [ContainerEvent[], ContainerEvent[]] = [[], []];
  const end = events.listen((event) => first.push(event));
  events.listen((event) => second.push(event));
  t.is(events.listenerCount, 2);
  events.emit("created", pod);
  end();
  events.emit("stopped", pod);
  events.emit("deleted", undefined);
  t.deepEqual(
    first.map(({ type }) => type),
    ["created"],
  );
  t.deepEqual(
    second.map(({ type }) => type),
    ["created", "stopped"],
  );
  t.true(BigInt(second[0]?.atNs ?? 0) > 0n);
});
