import { attachable } from "../pod/attach.js";
import type { PodContext } from "../pod/context.js";
import { runningContainer } from "../pod/exec-stream.js";
import type { StreamingServer } from "../streaming/server.js";
import { bad, integer, list, text } from "./checks.js";
import type { RuntimeHandlers } from "./handlers.js";

type StreamingVerbs = Pick<RuntimeHandlers, "exec" | "attach" | "portForward">;

interface Streams {
  tty: boolean;
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
}

/** Each answers a URL for one client; what the request itself tells to be wrong is said before. */
export function streamingVerbs(pods: PodContext, streaming: Pick<StreamingServer, "url">): StreamingVerbs {
  return {
    async exec(request) {
      const command = list("cmd", request.cmd, 4096).map((word) => text("cmd", word, 128 * 1024));
      if (command.length === 0) throw bad("cmd", "a command", "none");
      const streams = parseStreams(request);
      const { id } = runningContainer(pods, request.containerId);
      return { url: streaming.url({ kind: "exec", containerId: id, command, ...streams }) };
    },

    async attach(request) {
      const streams = parseStreams(request);
      const wanted = { kind: "attach", containerId: request.containerId, ...streams } as const;
      const { id } = attachable(pods, wanted);
      return { url: streaming.url({ ...wanted, containerId: id }) };
    },

    async portForward(request) {
      const ports = list("port", request.port, 1024).map((port) => integer("port", port, 1, 65535));
      const pod = pods.registry.pod(request.podSandboxId);
      if (!pod.ready) throw pod.notReady();
      return { url: streaming.url({ kind: "portforward", podId: pod.id, ports }) };
    },
  };
}

/** As the CRI has it: at least one stream, and a terminal has no stderr of its own. */
function parseStreams({ tty, stdin, stdout, stderr }: Streams): Streams {
  if (!stdin && !stdout && !stderr) throw bad("stdin, stdout, stderr", "at least one to be true", "none");
  if (tty && stderr) throw bad("stderr", "false where tty is true", "true");
  return { tty, stdin, stdout, stderr };
}
