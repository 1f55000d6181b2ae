/**
 * What an answer of the agent may look like. The guest is hostile: a message is first bounded in bytes, before it is decoded, then its
 * fields are checked, so that the rest of the server can take them for what their types say.
 */
import type {
  ContainerInfo,
  CreateContainerResponse,
  DialResponse,
  Event,
  ExecResponse,
  ExecSyncResponse,
  ExitRecord,
  HelloResponse,
  ListContainersResponse,
  LogRecord,
  OutputChunk,
  StatsResponse,
  WaitContainerResponse,
} from "../gen/agent/v1/agent.js";
import { ContainerState, Stream } from "../gen/agent/v1/agent.js";
import { PodvmError } from "../host/errors.js";

const KIB = 1024;
const MIB = 1024 * KIB;

export const MAX_CHUNK_BYTES = 64 * KIB;
export const MAX_CONTAINERS = 1024;
export const ID = /^[a-z0-9-]{1,64}$/;

/** Encoded bytes of one response message, by method; what is not named here may take 4 KiB. */
export const MESSAGE_BYTES: Record<string, number> = {
  Hello: 16 * KIB,
  CreateContainer: 512 * KIB,
  ListContainers: MIB,
  Output: MAX_CHUNK_BYTES + KIB,
  ExecSync: 20 * MIB,
  Exec: MIB,
  Dial: MAX_CHUNK_BYTES + KIB,
  AcceptSocket: MAX_CHUNK_BYTES + KIB,
  ReadVolume: MIB + KIB,
  Logs: 16 * KIB,
  Stats: 2 * MIB,
};
export const DEFAULT_MESSAGE_BYTES = 4 * KIB;

function wrong(what: string): never {
  throw new PodvmError("internal", `agent: answered against its protocol: ${what}`);
}

function text(value: string, max: number, what: string): void {
  if (value.length > max) wrong(`${what} of ${value.length} characters, at most ${max} are allowed`);
}

function count(list: readonly unknown[], max: number, what: string): void {
  if (list.length > max) wrong(`${list.length} ${what}, at most ${max} are allowed`);
}

function id(value: string, what: string): void {
  if (!ID.test(value)) wrong(`${what} is no id`);
}

function time(ns: bigint, what: string): void {
  if (ns < 0n || ns > MAX_TIME_NS) wrong(`${what} is outside of the years 1970 to 2261`);
}
/** What still fits a signed 64-bit number, less a day. */
const MAX_TIME_NS = 2n ** 63n - 86_400_000_000_000n;

export function checkHello(hello: HelloResponse): void {
  text(hello.agentVersion, 128, "version");
  text(hello.instance, 128, "instance");
  if (hello.instance === "") wrong("no instance");
  count(hello.features, 64, "features");
  for (const feature of hello.features) text(feature, 64, "feature");
  text(hello.kernel, 256, "kernel version");
  text(hello.podId, 64, "pod id");
  text(hello.crunVersion, 256, "crun version");
}

export function checkCreated(created: CreateContainerResponse): void {
  count(created.groups, 65536, "groups");
}

export function checkExit(exit: ExitRecord): void {
  if (exit.exitCode < 0 || exit.exitCode > 255) wrong(`exit code ${exit.exitCode}`);
  if (exit.signal > 64) wrong(`signal ${exit.signal}`);
  time(exit.timeNs, "time of exit");
}

export function checkWait(answer: WaitContainerResponse): void {
  if (answer.exit) checkExit(answer.exit);
}

export function checkContainers(list: ListContainersResponse): void {
  count(list.containers, MAX_CONTAINERS, "containers");
  for (const container of list.containers) checkContainer(container);
}

function checkContainer(container: ContainerInfo): void {
  id(container.containerId, "container id");
  if (ContainerState[container.state] === undefined) wrong(`container state ${container.state}`);
  time(container.createdNs, "time of creation");
  time(container.startedNs, "time of start");
  if (container.exit) checkExit(container.exit);
  else if (container.state === ContainerState.CONTAINER_STATE_EXITED) wrong("an exited container without exit record");
}

export function checkExecSync(answer: ExecSyncResponse): void {
  const bytes = Math.max(answer.stdout.length, answer.stderr.length);
  if (bytes > 16 * MIB) wrong(`${bytes} bytes of output, at most 16 MiB are allowed`);
  if (answer.exitCode < 0 || answer.exitCode > 255) wrong(`exit code ${answer.exitCode}`);
}

export function checkExecMessage(message: ExecResponse): void {
  if (message.exit) checkExit(message.exit);
}

export function checkDialMessage(message: DialResponse): void {
  if (message.eof && message.data.length > 0) wrong("an end of a connection that holds data");
}

export function checkVolumeData(data: Uint8Array, asked: number): void {
  if (data.length > asked) wrong(`${data.length} bytes of a volume, at most ${asked} were asked for`);
}

/** Bounds only; whether the offset continues the stream is the reader's to check. */
export function checkChunk(chunk: OutputChunk): void {
  if (chunk.stream !== Stream.STREAM_STDOUT && chunk.stream !== Stream.STREAM_STDERR) wrong(`stream ${chunk.stream}`);
  if (chunk.data.length > MAX_CHUNK_BYTES) wrong(`a chunk of ${chunk.data.length} bytes, at most 64 KiB are allowed`);
  if (chunk.eof && chunk.data.length > 0) wrong("an end of output that holds data");
  if (chunk.offset > BigInt(Number.MAX_SAFE_INTEGER - MAX_CHUNK_BYTES)) wrong(`output offset ${chunk.offset}`);
  time(chunk.timeNs, "time of output");
}

export function checkEvent(event: Event): void {
  time(event.timeNs, "time of an event");
  if (event.exited) {
    id(event.exited.containerId, "container id of an exit");
    if (!event.exited.exit) wrong("an exit event without exit record");
    checkExit(event.exited.exit);
  }
  if (event.oom) id(event.oom.containerId, "container id of an OOM event");
}

export function checkLog(record: LogRecord): void {
  text(record.level, 16, "log level");
  text(record.message, 4 * KIB, "log record");
  time(record.timeNs, "time of a log record");
}

export function checkStats(stats: StatsResponse): void {
  count(stats.containers, MAX_CONTAINERS, "containers");
  for (const container of stats.containers) {
    id(container.containerId, "container id");
    time(container.timeNs, "time of statistics");
  }
  if (!stats.guest) return;
  time(stats.guest.timeNs, "time of statistics");
  count(stats.guest.interfaces, 256, "interfaces");
  for (const { name } of stats.guest.interfaces) text(name, 32, "interface name");
}
