/** What the tests of the agent link share: a root file system, containers, a link that is cut, and how to read a log. */
import { execFileSync } from "node:child_process";
import { copyFileSync, createReadStream, existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { rename } from "node:fs/promises";
import net from "node:net";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import type { ExecutionContext } from "ava";
import type { Agent } from "../../src/agent/client.js";
import { OutputPump } from "../../src/agent/output-pump.js";
import { AgentSession } from "../../src/agent/session.js";
import { CreateContainerRequest } from "../../src/gen/agent/v1/agent.js";
import { silentLogger } from "../../src/host/log.js";

/** Programs of this machine with their libraries. */
export function makeRoot(root: string, more: string[] = []): void {
  for (const name of ["bin", "etc", "proc", "dev", "tmp"]) mkdirSync(join(root, name), { recursive: true });
  for (const program of ["sh", "cat", "sleep", "seq", "head", ...more]) {
    const path = [`/bin/${program}`, `/usr/bin/${program}`].find((candidate) => existsSync(candidate));
    if (!path) throw new Error(`no ${program} on this machine`);
    copyFileSync(path, join(root, "bin", program));
    const libraries = execFileSync("ldd", [path], { encoding: "utf8" }).split(/\s+/);
    for (const library of libraries.filter((word) => word.startsWith("/"))) {
      mkdirSync(join(root, dirname(library)), { recursive: true });
      copyFileSync(library, join(root, library));
    }
  }
  writeFileSync(join(root, "etc/passwd"), "root:x:0:0::/root:/bin/sh\n");
  writeFileSync(join(root, "etc/group"), "root:x:0:\n");
}

export function containerRequest(id: string, serial: string, script: string, stdin = false): CreateContainerRequest {
  const mount = (source: string, type: string, destination: string, options: string[]) => ({
    source,
    type,
    destination,
    options,
  });
  return CreateContainerRequest.fromPartial({
    containerId: id,
    image: { serial },
    stdin,
    stdinOnce: stdin,
    spec: {
      process: { args: ["sh", "-c", script], env: ["PATH=/bin"], cwd: "/" },
      mounts: [
        mount("proc", "proc", "/proc", []),
        mount("tmpfs", "tmpfs", "/dev", ["mode=755"]),
        mount("podvm:shm", "bind", "/dev/shm", ["rw"]),
      ],
      linux: { namespaces: [{ type: "mount" }] },
    },
  });
}

/** The content of log lines, put together again: what the container wrote. */
export async function written(files: string[], stream: "stdout" | "stderr"): Promise<string> {
  const parts: string[] = [];
  for (const file of files) {
    for await (const line of createInterface({ input: createReadStream(file, "latin1") })) {
      const [, name, tag, content] = /^\S{30} (stdout|stderr) ([PF]) (.*)$/s.exec(line) ?? [];
      if (name === undefined) throw new Error(`no line of a container's log: ${line.slice(0, 200)}`);
      if (name === stream) parts.push(content ?? "", tag === "F" ? "\n" : "");
    }
  }
  return parts.join("");
}

/** Forwards connections to the agent, and cuts them in the middle of whatever is on the way. */
export class Cutter {
  readonly path: string;
  cuts = 0;
  /** Bytes from the agent after which a connection is cut; asked for each connection. */
  after: () => number = () => Number.POSITIVE_INFINITY;
  onCut: () => void = () => {};
  #sockets = new Set<net.Socket>();
  #server: net.Server;

  constructor(path: string, target: string) {
    this.path = path;
    this.#server = net.createServer((front) => {
      const back = net.connect(target);
      for (const [from, to] of [
        [front, back],
        [back, front],
      ] as const) {
        this.#sockets.add(from);
        from.on("error", () => {});
        from.on("close", () => {
          this.#sockets.delete(from);
          to.destroy();
        });
        from.pipe(to);
      }
      let left = this.after();
      back.on("data", (bytes: Buffer) => {
        left -= bytes.length;
        if (left > 0 || back.destroyed) return;
        this.cuts += 1;
        front.destroy();
        back.destroy();
        this.onCut();
      });
    });
    this.#server.listen(this.path);
  }

  /** Cuts what is connected now; not counted. */
  cutNow(): void {
    for (const one of this.#sockets) one.destroy();
  }

  close(): void {
    this.cutNow();
    this.#server.close();
  }
}

export function session(path: string): AgentSession {
  return new AgentSession({ address: { path }, podId: "pod1", serverVersion: "test", logger: silentLogger });
}

export interface TortureOptions {
  /** Container id, and of the files. */
  name: string;
  /** Folder for sockets, logs and records. */
  dir: string;
  /** The agent's socket. */
  target: string;
  lines: number;
  prepare?: (agent: Agent) => Promise<unknown>;
  make: (script: string) => CreateContainerRequest;
}

/**
 * Cuts the link fifty times in the middle of output, closes the log and opens it again, rotates it, and compares what it holds in the end
 * with what the container wrote. `make` gives the request for a container that runs this script.
 */
export async function torture(t: ExecutionContext, options: TortureOptions): Promise<void> {
  const { name, dir, target, lines } = options;
  const cutter = new Cutter(join(dir, `${name}.sock`), target);
  t.teardown(() => cutter.close());
  const link = session(cutter.path);
  t.teardown(() => link.close());
  const agent = await link.agent(60_000);
  await options.prepare?.(agent);
  const script = `seq 1 ${lines} & seq -f 'err %g' 1 60000 >&2; wait; printf 'the end without line break'`;
  await agent.createContainer(options.make(script));
  await agent.startContainer(name);
  let seed = 1;
  cutter.after = () => {
    seed = (seed * 48271) % 2147483647;
    return cutter.cuts < 50 ? 20_000 + (seed % (lines / 8)) : Number.POSITIVE_INFINITY;
  };
  const logPath = join(dir, "logs", name, "0.log");
  const open = () =>
    OutputPump.open({
      containerId: name,
      source: link,
      logPath,
      positionPath: join(dir, "logpos", name),
      logger: silentLogger,
    });
  let rotations = 0;
  // Done one after another, while the cuts go on.
  let also = Promise.resolve();
  let pump = await open();
  cutter.onCut = () => {
    const round = cutter.cuts;
    also = also.then(async () => {
      if (round % 10 === 3) {
        // As when the server stops and comes back.
        await pump.close();
        pump = await open();
      }
      if (round % 10 === 7) {
        await rename(logPath, `${logPath}.2026010${rotations++}-000000`);
        await pump.reopen();
      }
    });
  };
  cutter.cutNow(); // the connection made so far has no limit
  for (let i = 0; i < 5000 && cutter.cuts < 50; i++) await new Promise((resolve) => setTimeout(resolve, 20));
  await also;
  t.is(cutter.cuts, 50, "each in the middle of output");
  t.true(await pump.drained(90_000));
  await pump.close();
  const files = readdirSync(dirname(logPath)).sort();
  t.is(files.length, rotations + 1);
  const inOrder = [...files.filter((file) => file !== "0.log"), "0.log"].map((file) => join(dirname(logPath), file));
  const numbers = (count: number, prefix = "") =>
    Array.from({ length: count }, (_, i) => `${prefix}${i + 1}\n`).join("");
  t.true((await written(inOrder, "stdout")) === `${numbers(lines)}the end without line break`);
  t.true((await written(inOrder, "stderr")) === numbers(60_000, "err "));
  const last = await link.agent(30_000);
  t.is((await last.waitContainer(name, 1000))?.exitCode, 0);
  await last.removeContainer(name);
}
