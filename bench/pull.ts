/**
 * What a pull from a registry on loopback takes, and the memory of the process that does it:
 *   node dist/bench/pull.js [MB] [ROUNDS]          (after `make build test-setup`)
 * An image of four layers, MB megabytes unpacked (default 108) in 1,000 files that compress to about a half. Each round is a new
 * process with an empty store; the store opens before the clock starts.
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { silentLogger } from "../src/host/log.js";
import { parseReference } from "../src/image/reference.js";
import { createImageStore } from "../src/image/store.js";
import { startRegistry } from "../test/support/registry.js";
import { pushImage, testAssets } from "../test/support/registry-push.js";
import { makeTar } from "../test/support/tar.js";

const layers = 4;
const filesPerLayer = 250;

/** The child's part. @returns milliseconds of the pull and the process's largest resident set in KiB */
async function pullOnce(stateDir: string, reference: string): Promise<{ ms: number; rssKib: number }> {
  const store = createImageStore({ stateDir, assets: testAssets(), logger: silentLogger });
  await store.open();
  const begun = performance.now();
  await store.pull(parseReference(reference));
  const ms = performance.now() - begun;
  const rss = /^VmHWM:\s+([0-9]+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  return { ms, rssKib: Number(rss) };
}

/** Text of random hexadecimal digits: half of it is entropy, as in most programs. */
function makeLayer(bytes: number): Buffer {
  const each = Math.floor(bytes / filesPerLayer);
  const files = Array.from({ length: filesPerLayer }, (_, i) => ({
    name: `usr/lib/${randomBytes(4).toString("hex")}-${i}`,
    data: randomBytes(Math.ceil(each / 2)).toString("hex"),
  }));
  return makeTar([{ name: "./" }, { name: "usr/" }, { name: "usr/lib/" }, ...files]);
}

async function main(megabytes: number, rounds: number): Promise<void> {
  const registry = await startRegistry();
  try {
    const image = { host: registry.host, repository: "bench/pull", tag: "1" };
    await pushImage({ ...image, layers: Array.from({ length: layers }, () => makeLayer((megabytes * 1e6) / layers)) });
    const results: { ms: number; rssKib: number }[] = [];
    for (let round = 0; round < rounds; round++) {
      const stateDir = await mkdtemp(join(tmpdir(), "podvm-bench-"));
      try {
        const argv = [fileURLToPath(import.meta.url), "--child", stateDir, `${registry.host}/bench/pull:1`];
        results.push(JSON.parse(execFileSync(process.execPath, argv, { encoding: "utf8" })));
      } finally {
        await rm(stateDir, { recursive: true, force: true });
      }
    }
    const ms = results.map((result) => result.ms).sort((a, b) => a - b);
    const rss = Math.max(...results.map((result) => result.rssKib));
    console.log(
      `${layers} layers, ${megabytes} MB unpacked, ${rounds} pulls on ${cpus().length} CPUs (${cpus()[0]?.model})`,
    );
    console.log(`time   min ${seconds(ms[0])}  median ${seconds(ms[ms.length >> 1])}  max ${seconds(ms.at(-1))}`);
    console.log(`memory peak RSS of the process ${Math.round(rss / 1024)} MiB`);
  } finally {
    await registry.stop();
  }
}

function seconds(ms: number | undefined): string {
  return `${((ms ?? Number.NaN) / 1000).toFixed(2)} s`;
}

const [, , first = "108", second = "5", third = ""] = process.argv;
if (first === "--child") console.log(JSON.stringify(await pullOnce(second, third)));
else await main(Number(first), Number(second));
