import { Command } from "commander";
import { type ClientOptions, withServer } from "../options.js";

export function metricsCommand(): Command {
  return withServer(new Command("metrics"))
    .description("Print the running server's metrics in Prometheus' text format.")
    .action(async (options: ClientOptions) => {
      const [{ withClients }, { call }] = await Promise.all([import("../connect.js"), import("../client.js")]);
      await withClients(options, async (clients) => {
        const { text } = await call(clients, clients.admin, "getMetrics", {});
        process.stdout.write(text);
      });
    });
}
