import test from "ava";
import { LineBuffer, LineFramer, linePrefix, MAX_LINE_CHUNKS } from "../../../src/agent/log-lines.js";
import { type OutputChunk, Stream } from "../../../src/gen/agent/v1/agent.js";
import { chunksOf, expectedLog, random, START_NS } from "./support.js";

function render(chunks: OutputChunk[], maxLine = 64): string {
  const framer = new LineFramer("stdout", 0, false, maxLine);
  const out = new LineBuffer();
  for (const chunk of chunks) framer.push(chunk, out);
  return out.view.toString("latin1");
}

const whole = (text: string, maxLine = 64) =>
  render(
    chunksOf(Buffer.from(text, "latin1"), Stream.STREAM_STDOUT, () => text.length),
    maxLine,
  );

const T = "2026-01-01T00:00:00.000000000Z stdout";

test("lines end with F, what has no line break at the end of the output with P", (t) => {
  t.is(whole("one\ntwo\n"), `${T} F one\n${T} F two\n`);
  t.is(whole("one\ntwo"), `${T} F one\n${T} P two\n`);
  t.is(whole("\n\n"), `${T} F \n${T} F \n`);
  t.is(whole(""), "");
});

test("carriage returns, zero bytes and other bytes are content", (t) => {
  t.is(whole("a\r\n\0\xff\x1b[m\n"), `${T} F a\r\n${T} F \0\xff\x1b[m\n`);
});

test("an overlong line goes out in pieces of the maximum, one that fits exactly in one", (t) => {
  const max = "x".repeat(64);
  t.is(whole(`${max}\n`), `${T} F ${max}\n`);
  t.is(whole(`${max}y\n`), `${T} P ${max}\n${T} F y\n`);
  t.is(whole(`${max}${max}\n`), `${T} P ${max}\n${T} F ${max}\n`);
  t.is(whole(max), `${T} P ${max}\n`);
});

test("a line that never ends, written byte by byte, goes out before it fills the agent's spool with chunks", (t) => {
  const dots = ".".repeat(MAX_LINE_CHUNKS + 3);
  const chunks = chunksOf(Buffer.from(dots), Stream.STREAM_STDOUT, () => 1);
  const lines = render(chunks, 16384).trimEnd().split("\n");
  t.is(lines.length, 2);
  t.true(lines[0]?.endsWith(` P ${".".repeat(MAX_LINE_CHUNKS)}`));
  t.true(lines[1]?.endsWith(" P ..."));
});

test("times are RFC 3339 in UTC with nine digits", (t) => {
  t.is(linePrefix(START_NS + 7n, "stderr", "P").toString(), "2026-01-01T00:00:00.000000007Z stderr P ");
  t.is(linePrefix(1_234_567_890_123_456_789n, "stdout", "F").toString(), "2009-02-13T23:31:30.123456789Z stdout F ");
  t.is(linePrefix(0n, "stdout", "F").toString(), "1970-01-01T00:00:00.000000000Z stdout F ");
});

test("random output in random chunks gives what the byte-by-byte cutter gives, wherever reading resumes", (t) => {
  for (let seed = 1; seed <= 300; seed++) {
    const pick = random(seed);
    const bytes = Buffer.from(Array.from({ length: pick(3000) }, () => (pick(40) === 0 ? 10 : 32 + pick(200))));
    const largest = 1 + pick(200);
    const chunks = chunksOf(bytes, Stream.STREAM_STDOUT, () => 1 + pick(largest));
    const expected = expectedLog(chunks, 64, MAX_LINE_CHUNKS);
    t.is(render(chunks), expected, `seed ${seed}`);

    // Interrupted after any chunk: what is covered is in the log, the rest comes again from there.
    const out = new LineBuffer();
    let framer = new LineFramer("stdout", 0, false, 64);
    let log = "";
    let interruptions = 12;
    for (let at = 0; at < chunks.length; ) {
      framer.push(chunks[at] as OutputChunk, out);
      at += 1;
      log += out.view.toString("latin1");
      out.clear();
      if (pick(4) > 0 || at === chunks.length || interruptions === 0) continue;
      interruptions -= 1;
      const { covered } = framer;
      framer = new LineFramer("stdout", covered, false, 64);
      at = chunks.findIndex((chunk) => chunk.eof || Number(chunk.offset) + chunk.data.length > covered);
      const chunk = chunks[at] as OutputChunk;
      if (chunk.eof || Number(chunk.offset) === covered) continue;
      const skip = covered - Number(chunk.offset);
      framer.push({ ...chunk, offset: BigInt(covered), data: chunk.data.subarray(skip) }, out);
      at += 1;
    }
    log += out.view.toString("latin1");
    t.is(log, expected, `seed ${seed}, interrupted`);
  }
});

test("the unfinished line may come again; a hole, a step back and output after the end are refused", (t) => {
  const chunk = (offset: number, text: string, eof = false): OutputChunk => ({
    stream: Stream.STREAM_STDOUT,
    offset: BigInt(offset),
    timeNs: START_NS,
    data: Buffer.from(text),
    eof,
  });
  const framer = new LineFramer("stdout", 0, false, 64);
  const out = new LineBuffer();
  framer.push(chunk(0, "ab\ncd"), out);
  t.is(framer.covered, 3);
  framer.push(chunk(3, "cd"), out);
  framer.push(chunk(3, "cdef\n"), out);
  t.is(out.view.toString(), `${T} F ab\n${T} F cdef\n`);
  t.throws(() => framer.push(chunk(9, "x"), out), { message: /wanted offset 8, found 9/ });
  t.throws(() => framer.push(chunk(2, "x"), out), { message: /found 2/ });
  t.throws(() => framer.push(chunk(7, "", true), out), { message: /found 7/ });
  framer.push(chunk(8, "", true), out);
  framer.push(chunk(8, "", true), out);
  t.throws(() => framer.push(chunk(8, "x"), out), { message: /after its end/ });
});
