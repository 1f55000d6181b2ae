/** An agent in this process whose every answer a test decides: the hostile guest that the real one cannot play. */
import net from "node:net";
import { Server, ServerCredentials, status, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { type AgentServer, AgentService, HelloResponse } from "../../../src/gen/agent/v1/agent.js";

const HELLO_BYTES = 32;

export interface FakeAgentOptions {
  /** Sent before anything else on each connection. */
  stale?: Buffer;
  /** Milliseconds until an echo goes out. */
  echoAfterMs?: number;
  /** True: takes connections and says nothing. */
  mute?: boolean;
  /** First line wanted, and the reply. */
  connect?: { line: string; reply: string };
}

export interface FakeAgent {
  connections: number;
  hellos: Buffer[];
  sockets: Set<net.Socket>;
  options: FakeAgentOptions;
  close(): void;
}

export function helloResponse(some: Partial<HelloResponse> = {}): HelloResponse {
  return HelloResponse.fromPartial({ agentVersion: "0.0.1", protocol: 1, instance: "i1", kernel: "6.12", ...some });
}

export async function fakeAgent(
  path: string,
  methods: Partial<AgentServer> = {},
  options: FakeAgentOptions = {},
): Promise<FakeAgent> {
  const server = new Server({ "grpc.max_send_message_length": -1, "grpc.max_receive_message_length": -1 });
  const implementation: UntypedServiceImplementation = {};
  for (const name of Object.keys(AgentService) as (keyof typeof AgentService)[]) {
    implementation[name] = ((call: NodeJS.EventEmitter, callback?: (err: object) => void) => {
      const err = { code: status.UNIMPLEMENTED, details: `fake: ${name}` };
      if (callback) callback(err);
      else call.emit("error", err);
    }) as never;
  }
  const hello: AgentServer["hello"] = (_, callback) => callback(null, helloResponse());
  // Events and logs stay open and silent unless a test says otherwise.
  server.addService(AgentService, { ...implementation, hello, events: () => {}, logs: () => {}, ...methods });
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());

  const agent: FakeAgent = {
    connections: 0,
    hellos: [],
    sockets: new Set(),
    options,
    close() {
      for (const socket of agent.sockets) socket.destroy();
      listener.close();
      server.forceShutdown();
      injector.destroy();
    },
  };
  const listener = net.createServer((socket) => {
    agent.connections += 1;
    agent.sockets.add(socket);
    socket.on("close", () => agent.sockets.delete(socket));
    socket.on("error", () => {});
    const { stale, echoAfterMs = 0, mute, connect } = agent.options;
    if (stale) socket.write(stale);
    if (mute) return;
    let seen = Buffer.alloc(0);
    let connected = connect === undefined;
    const onData = (bytes: Buffer) => {
      seen = Buffer.concat([seen, bytes]);
      if (!connected) {
        const end = seen.indexOf(10);
        if (end < 0) return;
        const line = seen.subarray(0, end).toString();
        seen = seen.subarray(end + 1);
        connected = true;
        socket.write(line === connect?.line ? connect.reply : "FAIL\n");
      }
      while (seen.length >= HELLO_BYTES && seen[0] === 0xff) {
        const echo = Buffer.from(seen.subarray(0, HELLO_BYTES));
        agent.hellos.push(echo);
        seen = seen.subarray(HELLO_BYTES);
        setTimeout(() => socket.write(echo), echoAfterMs);
      }
      if (seen.length === 0 || seen[0] === 0xff) return;
      socket.off("data", onData);
      socket.pause();
      socket.unshift(seen);
      injector.injectConnection(socket);
    };
    socket.on("data", onData);
  });
  await new Promise<void>((resolve) => listener.listen(path, resolve));
  return agent;
}
