import test from "ava";
import { sleep } from "../../../src/host/deadline.js";
import { hasCode } from "../../../src/host/errors.js";
import { Parking } from "../../../src/pod/parking.js";

test("a retry joins the work under way", async (t) => {
  const parking = new Parking<number>(() => true);
  let runs = 0;
  const work = async () => {
    await sleep(10);
    return ++runs;
  };
  t.deepEqual(await Promise.all([parking.run("a", undefined, work), parking.run("a", undefined, work)]), [1, 1]);
  t.is(await parking.run("a", undefined, work), 2, "claimed: the next one is new");
});

test("a client that goes away gets cancelled, its work goes on, and the retry finds the result", async (t) => {
  const parking = new Parking<string>(() => true);
  const client = new AbortController();
  let finished = false;
  const first = parking.run("a", client.signal, async () => {
    await sleep(30);
    finished = true;
    return "made once";
  });
  client.abort();
  t.true(hasCode(await t.throwsAsync(first), "cancelled"));
  t.false(finished);
  await sleep(60);
  t.true(finished);
  t.is(await parking.run("a", undefined, async () => "made twice"), "made once");
});

test("a failure is not kept", async (t) => {
  const parking = new Parking<number>(() => true);
  await t.throwsAsync(parking.run("a", undefined, () => Promise.reject(new Error("no"))));
  t.is(await parking.run("a", undefined, async () => 1), 1);
});

test("a result that was removed meanwhile is not handed out", async (t) => {
  const there = new Set(["first"]);
  const parking = new Parking<string>((result) => there.has(result));
  const client = new AbortController();
  const first = parking.run("a", client.signal, async () => {
    await sleep(5);
    return "first";
  });
  client.abort();
  await t.throwsAsync(first);
  await sleep(30);
  there.delete("first");
  there.add("second");
  t.is(await parking.run("a", undefined, async () => "second"), "second");
});
