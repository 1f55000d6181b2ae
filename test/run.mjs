/**
 * Runs the suites in order and ends with one line, "N passed, N failed[, N skipped]", the sum of all; that line is also written to
 * build/test/summary. A suite that breaks without a failed test of its own counts as one failure. Exit code 0 only if nothing failed.
 *
 * usage: node test/run.mjs [SUITE…]      suites: lint rust unit contract e2e critest (default: these, in this order), kubelet, cluster
 */
import { spawn } from "node:child_process";
import { createWriteStream, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const logs = join(root, "build/test");
mkdirSync(logs, { recursive: true });

/** What the output of each kind of program says of its tests: called per line, answers nothing; `done` gives the counts. */
const readers = {
  /** A check is one test: its exit code. */
  check: () => ({
    line() {},
    done: (code) => ({ passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: [] }),
  }),
  cargo() {
    const sum = { passed: 0, failed: 0, skipped: [] };
    return {
      line(text) {
        const result = /^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored/.exec(text);
        if (result) {
          sum.passed += Number(result[1]);
          sum.failed += Number(result[2]);
        }
        const ignored = /^test (.+) \.\.\. ignored(?:, (.*))?$/.exec(text);
        if (ignored) sum.skipped.push(`${ignored[1]}: ${ignored[2] ?? "no reason given"}`);
      },
      done: (code) => broken(sum, code),
    };
  },
  tap() {
    const sum = { passed: 0, failed: 0, skipped: [] };
    return {
      line(text) {
        const test = /^(not )?ok \d+ - (.*?)(?: # (SKIP|TODO)\b.*)?$/.exec(text);
        if (!test) return;
        if (test[3]) sum.skipped.push(test[2]);
        else if (test[1]) sum.failed++;
        else sum.passed++;
      },
      done: (code) => broken(sum, code),
    };
  },
};

function broken(sum, code) {
  const nothing = sum.passed + sum.failed + sum.skipped.length === 0;
  return (code !== 0 && sum.failed === 0) || nothing ? { ...sum, failed: sum.failed + 1, broken: true } : sum;
}

const ava = (folder, ...options) => ({
  argv: ["npx", "ava", "--tap", ...options, `dist/test/${folder}/**/*.test.js`],
  read: readers.tap,
});
const rustTarget = ["--target", "x86_64-unknown-linux-musl"];

const suites = {
  lint: [
    { name: "biome", argv: ["npx", "biome", "check", "--error-on-warnings", "."], read: readers.check },
    { name: "cargo fmt", argv: ["cargo", "fmt", "--all", "--check"], read: readers.check },
    {
      name: "clippy",
      argv: ["cargo", "clippy", "--locked", "--workspace", "--all-targets", ...rustTarget, "--", "-D", "warnings"],
      read: readers.check,
    },
  ],
  rust: [
    { name: "cargo test", argv: ["cargo", "test", "--locked", "--workspace", ...rustTarget], read: readers.cargo },
  ],
  unit: [{ name: "unit", ...ava("unit") }],
  contract: [{ name: "contract", ...ava("contract", "--timeout=5m") }],
  // One file at a time: each has a server and VMs of its own, and these want the machine's memory and processors.
  e2e: [{ name: "e2e", ...ava("e2e", "--timeout=10m", "--concurrency=1") }],
  // Each spec is a test; what is left behind on the node is another.
  critest: [
    { name: "critest", argv: ["node", "dist/test/critest/main.js", "--tap", "--only=serial"], read: readers.tap },
  ],
  // With Kubernetes' own programs, which test/setup/kubernetes.sh builds.
  kubelet: [{ name: "kubelet", ...ava("kubelet", "--timeout=10m", "--concurrency=1") }],
  cluster: [{ name: "cluster", ...ava("cluster", "--timeout=15m", "--concurrency=1") }],
};
const usual = ["lint", "rust", "unit", "contract", "e2e", "critest"];

/** Runs one part: everything it says goes to build/test/NAME.log, failures also to the screen. */
function runPart({ name, argv, read }) {
  const log = join(logs, `${name.replaceAll(" ", "-")}.log`);
  const reader = read();
  const began = Date.now();
  return new Promise((resolve) => {
    const env = { ...process.env };
    delete env.CARGO_TARGET_DIR; // this checkout's own
    env.CARGO_INCREMENTAL = "0"; // built once: neither this nor debug information is worth its time
    env.CARGO_PROFILE_DEV_DEBUG = "0";
    env.PATH = `${env.PATH}:${bundlePrograms()}`; // zstd and the like, where the host has none
    const child = spawn(argv[0], argv.slice(1), { cwd: root, env, stdio: ["ignore", "pipe", "pipe"] });
    const file = createWriteStream(log);
    const tail = [];
    let shown = false;
    const onLine = (text) => {
      file.write(`${text}\n`);
      reader.line(text);
      tail.push(text);
      if (tail.length > 60) tail.shift();
      if (/^(not )?ok \d+ - /.test(text)) shown = text.startsWith("not ok") && !/ # (SKIP|TODO)/.test(text);
      if (shown) console.log(`    ${text}`);
    };
    for (const stream of [child.stdout, child.stderr]) {
      let rest = "";
      stream.setEncoding("utf8");
      stream.on("data", (text) => {
        const lines = (rest + text).split("\n");
        rest = lines.pop();
        for (const line of lines) onLine(line);
      });
      stream.on("end", () => rest && onLine(rest));
    }
    const finish = (code, why) => {
      file.end();
      const sum = reader.done(code);
      if (why) tail.push(why);
      if (sum.broken || (read === readers.check && code !== 0) || (read === readers.cargo && sum.failed > 0)) {
        for (const text of tail) console.log(`    | ${text}`);
      }
      const seconds = ((Date.now() - began) / 1000).toFixed(0).padStart(5);
      const skipped = sum.skipped.length > 0 ? `, ${sum.skipped.length} skipped` : "";
      console.log(`  ${name.padEnd(12)} ${seconds}s  ${sum.passed} passed, ${sum.failed} failed${skipped}  (${log})`);
      resolve(sum);
    };
    child.once("error", (err) => finish(1, err.message));
    child.once("close", (code, signal) => finish(code ?? 1, signal ? `ended by ${signal}` : undefined));
  });
}

function bundlePrograms() {
  const file = join(root, "build/test-tools.env");
  const assets = existsSync(file) ? /^assets=(.*)$/m.exec(readFileSync(file, "utf8"))?.[1] : undefined;
  return join(assets ?? "/var/lib/podvm/assets", "bundle/current/bin");
}

const wanted = process.argv.length > 2 ? process.argv.slice(2) : usual;
const unknown = wanted.filter((name) => !(name in suites));
if (unknown.length > 0) {
  console.error(`unknown suite ${unknown.join(", ")}; there are: ${Object.keys(suites).join(" ")}`);
  process.exit(2);
}

const total = { passed: 0, failed: 0, skipped: [] };
for (const part of wanted.flatMap((name) => suites[name])) {
  const sum = await runPart(part);
  total.passed += sum.passed;
  total.failed += sum.failed;
  total.skipped.push(...sum.skipped.map((what) => `${part.name}: ${what}`));
}
for (const what of total.skipped) console.log(`  skipped: ${what}`);
const summary = `${total.passed} passed, ${total.failed} failed${total.skipped.length > 0 ? `, ${total.skipped.length} skipped` : ""}`;
writeFileSync(join(logs, "summary"), `${summary}\n`);
console.log(summary);
process.exitCode = total.failed > 0 ? 1 : 0;
