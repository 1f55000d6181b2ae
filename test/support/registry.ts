import { spawn } from "node:child_process";
import { once } from "node:events";
import { access, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { toolIfThere } from "./tools.js";

export interface TestRegistry {
  /** http://127.0.0.1:PORT */
  url: string;
  /** 127.0.0.1:PORT */
  host: string;
  /** Ends the process and removes its data. */
  stop(): Promise<void>;
}

/** As `make test-setup` unpacked it (build/test-tools.env), else as Debian installs it. */
const program = toolIfThere("docker-registry") ?? "/usr/bin/docker-registry";
const startMs = 20_000;

/** Why no registry can be started here, or undefined. */
export async function registryMissing(): Promise<string | undefined> {
  try {
    await access(program);
    return undefined;
  } catch {
    return `${program} is missing: make test-setup, or apt-get install docker-registry`;
  }
}

/** Debian's docker-registry on a free loopback port, with a data folder of its own. */
export async function startRegistry(): Promise<TestRegistry> {
  const missing = await registryMissing();
  if (missing) throw new Error(missing);
  const folder = await mkdtemp(join(tmpdir(), "podvm-registry-"));
  const host = `127.0.0.1:${await freePort()}`;
  const config = [
    "version: 0.1",
    "log: {level: error, accesslog: {disabled: true}}",
    `storage: {filesystem: {rootdirectory: ${folder}/data}, delete: {enabled: true}}`,
    `http: {addr: "${host}", secret: test}`,
    "",
  ].join("\n");
  await writeFile(join(folder, "config.yml"), config);
  const child = spawn(program, ["serve", join(folder, "config.yml")], { stdio: ["ignore", "ignore", "pipe"] });
  let said = "";
  child.stderr.on("data", (chunk: Buffer) => {
    if (said.length < 4000) said += chunk.toString();
  });
  const ended = once(child, "close");
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  const deadline = Date.now() + startMs;
  for (;;) {
    const there = await fetch(`http://${host}/v2/`).then(
      (response) => response.ok,
      () => false,
    );
    if (there) return { url: `http://${host}`, host, stop };
    if (child.exitCode !== null || Date.now() > deadline) {
      await stop();
      throw new Error(`docker-registry did not start: ${said || "no message"}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
