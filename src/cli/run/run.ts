/** `podvm run`: what kubelet does for a pod of one container, from a terminal. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { messageOf } from "../../host/errors.js";
import { type Clients, call } from "../client.js";
import type { RunOptions } from "../commands/run.js";
import { withClients } from "../connect.js";
import { Exit, exitCodes } from "../exit.js";
import { report } from "../main.js";
import { attend } from "./attend.js";
import { ensureImage } from "./ensure-image.js";
import { Interrupts } from "./interrupts.js";
import { removePod, startPod } from "./pod.js";
import { containerConfig, logFile, podConfig } from "./requests.js";

const startMs = 180_000;

/** Ends by throwing Exit with the container's code, 124 or 125. */
export async function run(image: string, command: string[], options: RunOptions): Promise<never> {
  try {
    throw new Exit(await withClients(options, (clients) => runWith(clients, image, command, options)));
  } catch (err) {
    if (err instanceof Exit) throw err;
    report(err, options.debug === true);
    throw new Exit(exitCodes.runFailed);
  }
}

interface CleanUp {
  what: string;
  undo: () => Promise<void>;
}

async function runWith(clients: Clients, image: string, command: string[], options: RunOptions): Promise<number> {
  const interrupts = new Interrupts();
  const cleanUps: CleanUp[] = [];
  const later = (what: string, undo: () => Promise<void>) => {
    if (!options.keep) cleanUps.push({ what, undo });
  };
  try {
    const imageId = await ensureImage(clients, image, options, interrupts.first);
    interrupts.check();
    const logDirectory = await mkdtemp(join(tmpdir(), "podvm-run-"));
    later(logDirectory, () => rm(logDirectory, { recursive: true, force: true }));

    const sandboxConfig = podConfig(options, logDirectory);
    const podSandboxId = await startPod(clients, sandboxConfig, options.handler, (id) =>
      later(`pod ${id}`, () => removePod(clients, id)),
    );
    interrupts.check();
    const config = containerConfig(image, imageId, command, options);
    const request = { podSandboxId, config, sandboxConfig };
    const { containerId } = await call(clients, clients.runtime, "createContainer", request, startMs);
    interrupts.check();
    await call(clients, clients.runtime, "startContainer", { containerId }, startMs);
    const code = await attend(clients, containerId, join(logDirectory, logFile), options.timeout, interrupts);
    if (options.keep) process.stderr.write(`podvm: kept pod ${podSandboxId}; its log is in ${logDirectory}\n`);
    return code;
  } finally {
    await tidy(cleanUps);
    interrupts.close();
  }
}

async function tidy(cleanUps: CleanUp[]): Promise<void> {
  for (const { what, undo } of cleanUps.reverse()) {
    await undo().catch((err) => {
      const hint = "once the server answers: podvm ps -a, podvm rm";
      process.stderr.write(`podvm: ${what} is left behind: ${messageOf(err)}; ${hint}\n`);
    });
  }
}
