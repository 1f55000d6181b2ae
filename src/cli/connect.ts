import { loadConfig } from "../config/config.js";
import { type Clients, connect } from "./client.js";
import type { ClientOptions } from "./options.js";

/** The socket that the options name, else the configuration's. */
export async function socketOf(options: ClientOptions): Promise<string> {
  return options.socket ?? (await loadConfig(options.config)).socket;
}

/** Runs `work` with clients of the server that the options name, and closes them. */
export async function withClients<T>(options: ClientOptions, work: (clients: Clients) => Promise<T>): Promise<T> {
  const clients = connect(await socketOf(options));
  try {
    return await work(clients);
  } finally {
    clients.close();
  }
}
