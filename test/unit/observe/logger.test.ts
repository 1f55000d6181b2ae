import { Writable } from "node:stream";
import test from "ava";
import { transports } from "winston";
import { PodvmError } from "../../../src/host/errors.js";
import { createLogger } from "../../../src/observe/logger.js";

function capture(format: "text" | "json", level: "info" | "debug" = "debug") {
  const lines: string[] = [];
  const stream = new Writable({
    write(chunk, _, done) {
      lines.push(String(chunk));
      done();
    },
  });
  return { logger: createLogger({ level, format, transport: new transports.Stream({ stream }) }), lines };
}

test("JSON: one object a line, with fields of children and errors with code and cause", (t) => {
  const { logger, lines } = capture("json");
  const cause = new Error("disk");
  logger
    .child({ pod: "p1" })
    .child({ container: "c1" })
    .error("it failed", {
      err: new PodvmError("not_found", "no image", { cause }),
      size: 5n,
    });
  t.is(lines.length, 1);
  const record = JSON.parse(lines[0] ?? "");
  t.like(record, { level: "error", message: "it failed", pod: "p1", container: "c1", size: "5" });
  t.like(record.err, { name: "PodvmError", code: "not_found", message: "no image" });
  t.is(record.err.cause.message, "disk");
  t.false(Number.isNaN(Date.parse(record.time)));
});

test("JSON: a field cannot hide what every record has", (t) => {
  const { logger, lines } = capture("json");
  logger.info("true words", { message: "false words", level: "error" });
  t.like(JSON.parse(lines[0] ?? ""), {
    level: "info",
    message: "true words",
    message_: "false words",
    level_: "error",
  });
});

test("text: one line, whatever a guest puts into it", (t) => {
  const { logger, lines } = capture("text");
  logger.warn("guest said\nFAKE LINE \u001b[2J", {
    said: "a\nb",
    plain: "x/y:1",
    err: new PodvmError("internal", "one\ntwo"),
  });
  t.is(lines.length, 1);
  const line = lines[0]?.trimEnd() ?? "";
  t.false(line.includes("\n"));
  t.false(line.includes("\u001b"));
  t.regex(line, / WARN {2}guest said\\nFAKE LINE /);
  t.regex(line, / plain=x\/y:1 /);
});

test("a level below the configured one is not written", (t) => {
  const { logger, lines } = capture("text", "info");
  logger.debug("hidden");
  logger.info("shown");
  t.is(lines.length, 1);
});

test("values without bound are cut", (t) => {
  const { logger, lines } = capture("json");
  const cyclic: Record<string, unknown> = {};
  cyclic.self = cyclic;
  logger.info("big", { text: "x".repeat(1_000_000), bytes: new Uint8Array(10), cyclic });
  t.true((lines[0]?.length ?? 0) < 10_000);
  t.is(JSON.parse(lines[0] ?? "").bytes, "10 bytes");
});
