/** The command line: names, options and help of all commands. What a command does is loaded when it runs. */
import { Command } from "commander";
import { podvmVersion } from "../host/version.js";
import { bundleCommand } from "./commands/bundle.js";
import { checkCommand } from "./commands/check.js";
import { configCommand } from "./commands/config.js";
import { imagesCommand } from "./commands/images.js";
import { metricsCommand } from "./commands/metrics.js";
import { psCommand } from "./commands/ps.js";
import { rmCommand } from "./commands/rm.js";
import { runCommand } from "./commands/run.js";
import { serveCommand } from "./commands/serve.js";
import { versionCommand } from "./commands/version.js";

const epilogue = `
Exit codes: 0 success, 1 failure, 2 wrong use of the command line. "podvm run" ends with the container's exit code, with 124 when
--timeout has passed, with 125 when PodVM itself failed; "podvm check" with 1 when something is missing.

Examples:
  podvm check                                 what this machine has and lacks
  podvm serve                                 the server; kubelet and crictl use its socket
  podvm run busybox uname -r                  one container in a VM of its own
  podvm run -p 8080:80 --memory 256m nginx    with a port of this machine
  podvm ps                                    pods and containers`;

export function buildProgram(): Command {
  const program = new Command("podvm")
    .description("Kubernetes pods in virtual machines: a CRI server, and commands for the node it runs on.")
    .version(podvmVersion(), "-V, --version", "print the version")
    .enablePositionalOptions()
    .showSuggestionAfterError()
    .helpCommand("help [command]", "help for a command")
    .addHelpText("after", epilogue);
  const commands = [
    serveCommand(),
    checkCommand(),
    runCommand(),
    psCommand(),
    rmCommand(),
    imagesCommand(),
    bundleCommand(),
    configCommand(),
    metricsCommand(),
    versionCommand(),
  ];
  for (const command of commands) program.addCommand(command.copyInheritedSettings(program));
  return program;
}
