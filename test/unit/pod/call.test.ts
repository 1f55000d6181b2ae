import test from "ava";
import type { AgentSession } from "../../../src/agent/session.js";
import { sleep } from "../../../src/host/deadline.js";
import { PodvmError } from "../../../src/host/errors.js";
import { Pod } from "../../../src/pod/pod.js";
import type { PodDocument } from "../../../src/pod/types.js";

/** A pod whose agent is there after `waitMs`. */
function podWith(waitMs: number): Pod {
  const pod = new Pod({ id: "p", phase: "ready" } as PodDocument);
  pod.session = {
    agent: async () => {
      await sleep(waitMs);
      return {};
    },
  } as unknown as AgentSession;
  return pod;
}

test("a call gets what waiting for the agent has left of its deadline", async (t) => {
  const given = await podWith(300).call(async (_, deadlineMs) => deadlineMs, 1000);
  t.true(given <= 705 && given > 0, String(given));
});

test("a call that is cut short is made again, all of them within one deadline", async (t) => {
  const given: number[] = [];
  const call = podWith(50).call(async (_, deadlineMs) => {
    given.push(deadlineMs);
    throw new PodvmError("unavailable", "cut short");
  }, 600);
  await t.throwsAsync(call, { code: "unavailable" });
  t.true(given.length >= 2, `${given.length} attempts`);
  for (const [i, left] of given.entries()) t.true(left <= 600 - 50 * (i + 1) + 5, `attempt ${i}: ${left}`);
});
