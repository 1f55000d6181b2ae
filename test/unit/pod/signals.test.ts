import test from "ava";
import { hasCode } from "../../../src/host/errors.js";
import { signalName, signalNumber } from "../../../src/pod/signals.js";

test("signals as images and CRI write them", (t) => {
  for (const [text, number] of [
    ["", 15],
    ["SIGTERM", 15],
    ["term", 15],
    ["9", 9],
    ["SIGQUIT", 3],
    ["SIGRTMIN", 34],
    ["SIGRTMIN+3", 37],
    ["SIGRTMINPLUS3", 37],
    ["SIGRTMAXMINUS2", 62],
    ["SIGRTMAX", 64],
  ] as const) {
    t.is(signalNumber(text), number, text);
  }
});

test("numbers as CRI names them", (t) => {
  const names = [1, 6, 9, 15, 34, 37, 49, 50, 62, 64].map(signalName);
  const real = ["SIGRTMIN", "SIGRTMINPLUS3", "SIGRTMINPLUS15", "SIGRTMAXMINUS14", "SIGRTMAXMINUS2", "SIGRTMAX"];
  t.deepEqual(names, ["SIGHUP", "SIGABRT", "SIGKILL", "SIGTERM", ...real]);
  t.is(signalName(99), undefined);
});

test("anything else is refused", (t) => {
  for (const text of ["SIGNOT", "0", "65", "-1", "SIGRTMIN+40", "1e1"]) {
    t.true(
      hasCode(
        t.throws(() => signalNumber(text)),
        "invalid_argument",
      ),
      text,
    );
  }
});
