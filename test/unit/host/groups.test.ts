import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { groupNumber } from "../../../src/host/groups.js";

test("a group by number or by name", async (t) => {
  t.is(await groupNumber("1234"), 1234);
  t.is(await groupNumber("root"), 0);
  t.true(hasCode(await t.throwsAsync(groupNumber("no-such-group")), "not_found"));
});
