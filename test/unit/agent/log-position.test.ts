import test from "ava";
import { decodePosition, encodePosition, type LogPosition, SLOT_BYTES } from "../../../src/agent/log-position.js";

const position = (stdout: number): LogPosition => ({
  stdout,
  stderr: 7,
  stdoutEof: false,
  stderrEof: true,
  log: { file: { dev: 2n ** 40n, ino: 2n ** 63n + 5n, birthtimeNs: 1_700_000_000_123_456_789n }, size: 2 ** 45 },
});

test("a record reads back as it was written, the newer slot counting", (t) => {
  const older = encodePosition(position(10), 4);
  const newer = encodePosition(position(2 ** 50), 5);
  t.is(older.length, SLOT_BYTES);
  t.deepEqual(decodePosition(Buffer.concat([older, newer])), { position: position(2 ** 50), number: 5 });
  t.deepEqual(decodePosition(Buffer.concat([encodePosition(position(3), 6), newer])), {
    position: position(3),
    number: 6,
  });
  t.deepEqual(decodePosition(older), { position: position(10), number: 4 });
  const { log: _, ...without } = position(1);
  t.deepEqual(decodePosition(encodePosition(without, 0))?.position, without);
});

test("a torn slot costs only itself; nothing valid is an error; an empty file is none", (t) => {
  const older = encodePosition(position(10), 4);
  for (let at = 0; at < SLOT_BYTES; at++) {
    const newer = encodePosition(position(11), 5);
    newer[at] = (newer[at] ?? 0) ^ 0x40;
    t.is(decodePosition(Buffer.concat([older, newer]))?.number, 4, `byte ${at}`);
    t.throws(() => decodePosition(newer), { message: /damaged/ });
  }
  t.is(decodePosition(Buffer.concat([older, encodePosition(position(11), 5).subarray(0, 60)]))?.number, 4);
  t.is(decodePosition(Buffer.alloc(0)), undefined);
});
