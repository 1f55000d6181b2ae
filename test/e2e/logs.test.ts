/** Output survives whatever the server goes through. */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { busybox } from "../support/manifests.js";
import { suite } from "../support/suite.js";
import { until } from "../support/until.js";

const { test, podvm } = suite();

const lines = 2_000_000;
/** 49 digits and a newline: 100 MB in all. */
const line = (n: number) => String(n).padStart(49, "0");

test("100 MB of output, byte for byte, while the server is killed and started three times", async (t) => {
  t.timeout(1_200_000);
  const { crictl } = podvm();
  await crictl.run("pull", busybox);
  const { podId, id, config } = await podvm().podWith({
    name: "big",
    command: [
      "sh",
      "-c",
      `seq -f %049.0f 1 ${lines} 2>/dev/null || exec awk 'BEGIN { for (i = 1; i <= ${lines}; i++) printf "%049d\\n", i }'`,
    ],
  });
  const file = `${config.log_directory}/big-0.log`;
  const size = async () => (await import("node:fs")).statSync(file).size;
  for (let kill = 1; kill <= 3; kill++) {
    // each line carries about 40 bytes of time and stream beside its 50
    const target = kill * 40_000_000;
    await until(`the log reaches ${target} bytes`, 300_000, async () => (await size()) >= target);
    await podvm().kill();
    await podvm().start();
  }
  t.not((await crictl.inspect(id)).state, "CONTAINER_UNKNOWN");
  const status = await until("the container has exited", 600_000, async () => {
    const now = await crictl.inspect(id);
    return now.state === "CONTAINER_EXITED" && now;
  });
  t.is(status.exitCode, 0);

  const written = createHash("sha256");
  let bytes = 0;
  const entry = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([FP]) (.*)$/;
  for await (const text of createInterface({ input: createReadStream(file), crlfDelay: Number.POSITIVE_INFINITY })) {
    const match = entry.exec(text);
    if (match?.[1] !== "stdout") return t.fail(`no log line of stdout: ${text.slice(0, 200)}`);
    const content = match[2] === "F" ? `${match[3]}\n` : (match[3] ?? "");
    bytes += content.length;
    written.update(content);
  }
  const wanted = createHash("sha256");
  for (let n = 1; n <= lines; n++) wanted.update(`${line(n)}\n`);
  t.is(bytes, lines * 50);
  t.is(written.digest("hex"), wanted.digest("hex"));
  await podvm().removePod(podId);
});

test("a line longer than the CRI limit is cut into partial entries, and crictl joins them again", async (t) => {
  const { crictl } = podvm();
  const { podId, id } = await podvm().podWith({
    command: ["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; printf 'no newline at the end'"],
  });
  await until("it has exited", 30_000, async () => (await crictl.inspect(id)).state === "CONTAINER_EXITED");
  const result = await crictl.attempt(["logs", id]);
  t.is(result.stdout, `${"x".repeat(100_000)}\nno newline at the end`);
  await podvm().removePod(podId);
});
