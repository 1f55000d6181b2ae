import { Command } from "commander";
import { type ClientOptions, withServer } from "../options.js";

export function psCommand(): Command {
  return withServer(new Command("ps"))
    .description("List pods (VMs) and their containers.")
    .option("-a, --all", "also those that have ended")
    .option("--json", "as JSON")
    .action(async (options: ClientOptions & { all?: boolean; json?: boolean }) => {
      const { listPods } = await import("../list-pods.js");
      await listPods(options);
    });
}
