import test from "ava";
import { EventQueue } from "../../../src/cri/event-queue.js";

async function collected(queue: EventQueue<number>): Promise<{ items: number[]; err?: Error }> {
  const items: number[] = [];
  try {
    for await (const item of queue) items.push(item);
    return { items };
  } catch (err) {
    return { items, err: err as Error };
  }
}

test("events come in order, also to a reader that waits", async (t) => {
  const queue = new EventQueue<number>(10);
  const reading = collected(queue);
  queue.push(1);
  await new Promise((resolve) => setImmediate(resolve));
  queue.push(2);
  queue.push(3);
  queue.close();
  queue.push(4);
  t.deepEqual(await reading, { items: [1, 2, 3] });
});

test("a reader that falls behind is cut off and told so, without a hole before that", async (t) => {
  const queue = new EventQueue<number>(3);
  for (let n = 0; n < 10; n++) queue.push(n);
  const { items, err } = await collected(queue);
  t.deepEqual(items, []);
  t.like(err, { code: "resource_exhausted" });
  t.regex(err?.message ?? "", /fell behind by 3 events.*subscribe again/);
});

test("the end of the server wakes a reader that waits", async (t) => {
  const queue = new EventQueue<number>(3);
  const reading = collected(queue);
  queue.close(new Error("stopping"));
  t.is((await reading).err?.message, "stopping");
});
