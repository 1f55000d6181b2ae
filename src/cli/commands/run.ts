import { Command, Option } from "commander";
import {
  type ClientOptions,
  cpuCount,
  type EnvVariable,
  envVariable,
  integerBetween,
  memoryBytes,
  type PortOption,
  podName,
  portMapping,
  withServer,
} from "../options.js";

export interface RunOptions extends ClientOptions {
  name?: string;
  entrypoint?: string;
  workdir?: string;
  memory?: bigint;
  cpus?: number;
  env: EnvVariable[];
  publish: PortOption[];
  pull: "always" | "missing" | "never";
  handler: string;
  keep?: boolean;
  quiet?: boolean;
  /** Seconds. */
  timeout?: number;
}

const epilogue = `
Output goes to standard output and error as the container writes it; PodVM's own words go to standard error. Ctrl-C (or SIGTERM) stops the
container as "kubectl delete" would; a second one kills it. Pod, container and log are removed at the end, except with --keep.
Options must stand before IMAGE; what follows it is the container's.`;

export function runCommand(): Command {
  return withServer(new Command("run"))
    .description("Run one container in a VM of its own, attached to its output, until it ends.")
    .argument("<image>", "busybox, ghcr.io/owner/name:tag, name@sha256:…")
    .argument("[command...]", "instead of the image's own command")
    .passThroughOptions()
    .option("-n, --name <name>", "name of the pod (default: made up)", podName)
    .option("--entrypoint <program>", "instead of the image's entrypoint")
    .option("-w, --workdir <folder>", "working directory in the container")
    .option("-m, --memory <size>", "memory limit: 256m, 1.5g (the VM is sized by it)", memoryBytes)
    .option("--cpus <number>", "CPU limit: 0.5, 2 (the VM is sized by it)", cpuCount)
    .addOption(
      new Option("-e, --env <name=value>", "environment variable; repeatable")
        .argParser(envVariable)
        .default([], "none"),
    )
    .addOption(
      new Option(
        "-p, --publish <host:container>",
        "make a port of the container one of this machine: 8080:80; repeatable",
      )
        .argParser(portMapping)
        .default([], "none"),
    )
    .addOption(new Option("--pull <when>", "pull the image").choices(["always", "missing", "never"]).default("missing"))
    .option("--handler <name>", "RuntimeClass handler", "")
    .option("--timeout <seconds>", "end it after this long, with exit code 124", integerBetween(1, 86400 * 24))
    .option("--keep", "leave pod and container behind when it has ended (podvm ps -a, podvm rm)")
    .option("-q, --quiet", "no progress")
    .addHelpText("after", epilogue)
    .action(async (image: string, command: string[], options: RunOptions) => {
      await (await import("../run/run.js")).run(image, command, options);
    });
}
