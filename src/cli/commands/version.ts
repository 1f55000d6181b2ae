import { Command } from "commander";
import { type ClientOptions, withServer } from "../options.js";

export function versionCommand(): Command {
  return withServer(new Command("version"))
    .description("Versions of this command, of the running server, and of what pods run on.")
    .option("--json", "as JSON")
    .action(async (options: ClientOptions & { json?: boolean }) => {
      const { showVersion } = await import("../show-version.js");
      await showVersion(options);
    });
}
