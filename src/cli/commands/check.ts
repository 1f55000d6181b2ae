import { Command } from "commander";
import { type CommonOptions, withConfig } from "../options.js";

export function checkCommand(): Command {
  return withConfig(new Command("check"))
    .description("Check what this machine has and lacks for PodVM, and what to do. Needs root to look at all of it.")
    .option("--json", "as JSON")
    .addHelpText("after", "\nExit code: 0 when nothing is missing (warnings allowed), else 1.")
    .action(async (options: CommonOptions & { json?: boolean }) => {
      await (await import("../check/check.js")).check(options);
    });
}
