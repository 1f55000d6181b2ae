import { Command } from "commander";
import { type ClientOptions, withServer } from "../options.js";

export function rmCommand(): Command {
  return withServer(new Command("rm"))
    .description("Stop and remove pods with all that belongs to them.")
    .argument("<pod...>", "id (its beginning suffices), NAME or NAMESPACE/NAME")
    .action(async (pods: string[], options: ClientOptions) => {
      const { removePods } = await import("../remove-pods.js");
      await removePods(pods, options);
    });
}
