/** The agent's calls as promises and typed streams, every answer checked. */
import {
  type ClientDuplexStream,
  type ClientReadableStream,
  type ClientUnaryCall,
  Metadata,
  type MethodDefinition,
} from "@grpc/grpc-js";
import * as messages from "../gen/agent/v1/agent.js";
import {
  type AcceptSocketRequest,
  type AgentClient,
  AgentService,
  type ConfigureSandboxRequest,
  type ConfigureSandboxResponse,
  type CreateContainerRequest,
  type CreateContainerResponse,
  type DeepPartial,
  type DialRequest,
  type DialResponse,
  type Event,
  type ExecRequest,
  type ExecResponse,
  type ExecStart,
  type ExecSyncRequest,
  type ExecSyncResponse,
  type ExitRecord,
  type HelloRequest,
  type HelloResponse,
  type ListContainersResponse,
  type LogRecord,
  type OutputChunk,
  type OutputRequest,
  type PutVolumeRequest,
  type ReadVolumeRequest,
  type ReadVolumeResponse,
  type ResizeResponse,
  type ResizeTerminalRequest,
  type StatsResponse,
  type UpdateContainerRequest,
} from "../gen/agent/v1/agent.js";
import { PodvmError } from "../host/errors.js";
import { fromGrpc } from "./errors.js";
import * as limits from "./limits.js";
import {
  acceptStream,
  type DialStream,
  dialStream,
  type ExecStream,
  execStream,
  type InputStream,
  inputStream,
  type OutputStream,
  outputStream,
} from "./streams.js";
import { type GenerationEntry, sendGeneration } from "./sync-volume.js";

export interface CallOptions {
  /** Milliseconds; each method has a default. */
  deadlineMs?: number;
  signal?: AbortSignal;
}

/**
 * One connection to an agent. All calls reject with PodvmError: unavailable when the connection is or gets lost (repeat it on the next: every
 * mutating call is idempotent), else as agent.proto says.
 */
export interface Agent {
  /** Resolves when the connection is gone, for whatever reason. Never rejects. */
  readonly closed: Promise<void>;
  close(): void;

  hello(request: DeepPartial<HelloRequest>, options?: CallOptions): Promise<HelloResponse>;
  configureSandbox(
    request: DeepPartial<ConfigureSandboxRequest>,
    options?: CallOptions,
  ): Promise<ConfigureSandboxResponse>;
  createContainer(
    request: DeepPartial<CreateContainerRequest>,
    options?: CallOptions,
  ): Promise<CreateContainerResponse>;
  /** Nanoseconds since the epoch, of the guest's clock. */
  startContainer(containerId: string, options?: CallOptions): Promise<bigint>;
  signalContainer(containerId: string, signal: number, all: boolean, options?: CallOptions): Promise<void>;
  /** Undefined when it still runs after `timeoutMs`. The call's deadline is that plus some seconds. */
  waitContainer(containerId: string, timeoutMs: number, options?: CallOptions): Promise<ExitRecord | undefined>;
  removeContainer(containerId: string, options?: CallOptions): Promise<void>;
  listContainers(options?: CallOptions): Promise<ListContainersResponse>;
  updateContainer(request: DeepPartial<UpdateContainerRequest>, options?: CallOptions): Promise<void>;
  resizeTerminal(request: DeepPartial<ResizeTerminalRequest>, options?: CallOptions): Promise<void>;
  /** Without `deadlineMs` the deadline is the command's time-out plus some seconds, or none where it has none. */
  execSync(request: DeepPartial<ExecSyncRequest>, options?: CallOptions): Promise<ExecSyncResponse>;
  stats(containerIds: string[], options?: CallOptions): Promise<StatsResponse>;
  putVolume(request: DeepPartial<PutVolumeRequest>, options?: CallOptions): Promise<void>;
  /** One whole generation of a synced volume. */
  syncVolume(volumeId: string, entries: readonly GenerationEntry[], options?: CallOptions): Promise<void>;
  /** The last `maxBytes` of a file of a synced volume. */
  readVolume(request: DeepPartial<ReadVolumeRequest>, options?: CallOptions): Promise<Uint8Array>;
  removeVolume(volumeId: string, options?: CallOptions): Promise<void>;
  /** The guest uses CPUs that were plugged in: resolves when exactly `cpus` run (0: at once), with what there is. */
  resize(cpus: number, timeoutMs: number, options?: CallOptions): Promise<ResizeResponse>;
  shutdown(graceMs: number, options?: CallOptions): Promise<void>;

  /** Output from these offsets on, everything below them being acknowledged. Lasts until the container's end: no deadline. */
  output(containerId: string, stdoutOffset: bigint, stderrOffset: bigint): OutputStream;
  input(containerId: string): InputStream;
  exec(start: DeepPartial<ExecStart>): ExecStream;
  /** A TCP connection to a port of the pod, 1 to 65535. */
  dial(port: number): DialStream;
  /** Waits for a connection to a socket volume: the first message says that there is one. */
  acceptSocket(volumeId: string): DialStream;
  /** Events after `afterSeq`, then live; ends with the iteration or the connection. */
  events(afterSeq: bigint): AsyncIterable<Event>;
  logs(afterSeq: bigint): AsyncIterable<LogRecord>;
}

/** What the call itself may take beyond the time that it was asked to wait. */
const SLACK_MS = 10_000;
const DEFAULT_DEADLINE_MS = 10_000;
/** Where mounting, crun or many processes are involved, with a slow machine under it. */
const SLOW_DEADLINE_MS = 60_000;

type Method<Request, Response> = Pick<
  MethodDefinition<Request, Response>,
  "path" | "requestSerialize" | "responseDeserialize"
>;

export class GrpcAgent implements Agent {
  readonly closed: Promise<void>;
  readonly close: () => void;
  readonly #client: AgentClient;
  #gone = false;

  /** `closed` resolves when the connection is gone, `cut` ends it. */
  constructor(client: AgentClient, closed: Promise<void>, cut: () => void) {
    this.#client = client;
    this.close = () => {
      this.#gone = true;
      cut();
    };
    this.closed = closed.then(this.close);
  }

  hello(request: DeepPartial<HelloRequest>, options?: CallOptions): Promise<HelloResponse> {
    const { hello } = AgentService;
    return this.#unary(hello, messages.HelloRequest.fromPartial(request), options, limits.checkHello);
  }

  configureSandbox(
    request: DeepPartial<ConfigureSandboxRequest>,
    options?: CallOptions,
  ): Promise<ConfigureSandboxResponse> {
    const whole = messages.ConfigureSandboxRequest.fromPartial(request);
    return this.#unary(AgentService.configureSandbox, whole, { deadlineMs: SLOW_DEADLINE_MS, ...options });
  }

  createContainer(
    request: DeepPartial<CreateContainerRequest>,
    options?: CallOptions,
  ): Promise<CreateContainerResponse> {
    const whole = messages.CreateContainerRequest.fromPartial(request);
    const all = { deadlineMs: SLOW_DEADLINE_MS, ...options };
    return this.#unary(AgentService.createContainer, whole, all, limits.checkCreated);
  }

  async startContainer(containerId: string, options?: CallOptions): Promise<bigint> {
    const all = { deadlineMs: SLOW_DEADLINE_MS, ...options };
    return (await this.#unary(AgentService.startContainer, { containerId }, all)).startedNs;
  }

  async signalContainer(containerId: string, signal: number, all: boolean, options?: CallOptions): Promise<void> {
    await this.#unary(AgentService.signalContainer, { containerId, signal, all }, options);
  }

  async waitContainer(containerId: string, timeoutMs: number, options?: CallOptions): Promise<ExitRecord | undefined> {
    const request = { containerId, timeoutMs: Math.max(0, Math.round(timeoutMs)) };
    const all = { deadlineMs: timeoutMs + SLACK_MS, ...options };
    return (await this.#unary(AgentService.waitContainer, request, all, limits.checkWait)).exit;
  }

  async removeContainer(containerId: string, options?: CallOptions): Promise<void> {
    await this.#unary(AgentService.removeContainer, { containerId }, { deadlineMs: SLOW_DEADLINE_MS, ...options });
  }

  listContainers(options?: CallOptions): Promise<ListContainersResponse> {
    return this.#unary(AgentService.listContainers, {}, options, limits.checkContainers);
  }

  async updateContainer(request: DeepPartial<UpdateContainerRequest>, options?: CallOptions): Promise<void> {
    await this.#unary(AgentService.updateContainer, messages.UpdateContainerRequest.fromPartial(request), options);
  }

  async resizeTerminal(request: DeepPartial<ResizeTerminalRequest>, options?: CallOptions): Promise<void> {
    await this.#unary(AgentService.resizeTerminal, messages.ResizeTerminalRequest.fromPartial(request), options);
  }

  execSync(request: DeepPartial<ExecSyncRequest>, options?: CallOptions): Promise<ExecSyncResponse> {
    const whole = messages.ExecSyncRequest.fromPartial(request);
    const deadlineMs = whole.timeoutMs === 0 ? Number.POSITIVE_INFINITY : whole.timeoutMs + SLACK_MS;
    return this.#unary(AgentService.execSync, whole, { deadlineMs, ...options }, limits.checkExecSync);
  }

  stats(containerIds: string[], options?: CallOptions): Promise<StatsResponse> {
    return this.#unary(AgentService.stats, { containerIds }, options, limits.checkStats);
  }

  async putVolume(request: DeepPartial<PutVolumeRequest>, options?: CallOptions): Promise<void> {
    const whole = messages.PutVolumeRequest.fromPartial(request);
    await this.#unary(AgentService.putVolume, whole, { deadlineMs: SLOW_DEADLINE_MS, ...options });
  }

  syncVolume(volumeId: string, entries: readonly GenerationEntry[], options: CallOptions = {}): Promise<void> {
    this.#assertOpen("SyncVolume");
    const deadline = Date.now() + (options.deadlineMs ?? SLOW_DEADLINE_MS);
    return sendGeneration(
      (callback) => this.#client.syncVolume(new Metadata(), { deadline }, callback),
      volumeId,
      entries,
    );
  }

  async readVolume(request: DeepPartial<ReadVolumeRequest>, options?: CallOptions): Promise<Uint8Array> {
    const whole = messages.ReadVolumeRequest.fromPartial(request);
    const check = ({ data }: ReadVolumeResponse) => limits.checkVolumeData(data, whole.maxBytes);
    return (await this.#unary(AgentService.readVolume, whole, options, check)).data;
  }

  async removeVolume(volumeId: string, options?: CallOptions): Promise<void> {
    await this.#unary(AgentService.removeVolume, { volumeId }, { deadlineMs: SLOW_DEADLINE_MS, ...options });
  }

  resize(cpus: number, timeoutMs: number, options?: CallOptions): Promise<ResizeResponse> {
    const request = { cpus, timeoutMs: Math.max(0, Math.round(timeoutMs)) };
    return this.#unary(AgentService.resize, request, { deadlineMs: timeoutMs + SLACK_MS, ...options });
  }

  async shutdown(graceMs: number, options?: CallOptions): Promise<void> {
    const request = { graceMs: Math.max(0, Math.round(graceMs)) };
    await this.#unary(AgentService.shutdown, request, { deadlineMs: graceMs + SLACK_MS, ...options });
  }

  output(containerId: string, stdoutOffset: bigint, stderrOffset: bigint): OutputStream {
    const stream = this.#bidi<OutputRequest, OutputChunk>(AgentService.output, limits.checkChunk);
    stream.write({ containerId, stdoutOffset, stderrOffset });
    return outputStream(stream, containerId);
  }

  input(containerId: string): InputStream {
    this.#assertOpen("Input");
    return inputStream((callback) => this.#client.input(callback), containerId);
  }

  exec(start: DeepPartial<ExecStart>): ExecStream {
    const stream = this.#bidi<ExecRequest, ExecResponse>(AgentService.exec, limits.checkExecMessage);
    return execStream(stream, messages.ExecStart.fromPartial(start));
  }

  dial(port: number): DialStream {
    return dialStream(this.#bidi<DialRequest, DialResponse>(AgentService.dial, limits.checkDialMessage), port);
  }

  acceptSocket(volumeId: string): DialStream {
    const stream = this.#bidi<AcceptSocketRequest, DialResponse>(AgentService.acceptSocket, limits.checkDialMessage);
    return acceptStream(stream, volumeId);
  }

  events(afterSeq: bigint): AsyncIterable<Event> {
    return this.#server(AgentService.events, { afterSeq }, limits.checkEvent);
  }

  logs(afterSeq: bigint): AsyncIterable<LogRecord> {
    return this.#server(AgentService.logs, { afterSeq }, limits.checkLog);
  }

  #unary<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    options: CallOptions = {},
    check?: (response: Response) => void,
  ): Promise<Response> {
    const name = nameOf(method.path);
    const { deadlineMs = DEFAULT_DEADLINE_MS, signal } = options;
    return new Promise<Response>((resolve, reject) => {
      this.#assertOpen(name);
      if (signal?.aborted) throw new PodvmError("cancelled", `agent: ${name}: cancelled`);
      let call: ClientUnaryCall | undefined;
      const onAbort = () => call?.cancel();
      signal?.addEventListener("abort", onAbort, { once: true });
      call = this.#client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        bounded(method, check),
        request,
        { deadline: Number.isFinite(deadlineMs) ? Date.now() + deadlineMs : Number.POSITIVE_INFINITY },
        (err, response) => {
          signal?.removeEventListener("abort", onAbort);
          if (err) reject(fromGrpc(err, name));
          else resolve(response as Response);
        },
      );
    });
  }

  #bidi<Request, Response>(
    method: Method<Request, Response>,
    check: (response: Response) => void,
  ): ClientDuplexStream<Request, Response> {
    this.#assertOpen(nameOf(method.path));
    return this.#client.makeBidiStreamRequest(method.path, method.requestSerialize, bounded(method, check));
  }

  async *#server<Request, Response>(
    method: Method<Request, Response>,
    request: Request,
    check: (response: Response) => void,
  ): AsyncGenerator<Response> {
    const name = nameOf(method.path);
    this.#assertOpen(name);
    const stream: ClientReadableStream<Response> = this.#client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      bounded(method, check),
      request,
    );
    try {
      yield* stream;
    } catch (err) {
      throw fromGrpc(err, name);
    } finally {
      stream.on("error", () => {}); // cancel() makes one, after the iteration has ended
      stream.cancel();
    }
  }

  #assertOpen(call: string): void {
    if (this.#gone) throw new PodvmError("unavailable", `agent: ${call}: the connection to the guest is gone`);
  }
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** Decodes after a look at the size, then checks. What this throws ends the call with INTERNAL. */
function bounded<Response>(
  method: Method<never, Response>,
  check?: (response: Response) => void,
): (bytes: Buffer) => Response {
  const name = nameOf(method.path);
  const max = limits.MESSAGE_BYTES[name] ?? limits.DEFAULT_MESSAGE_BYTES;
  return (bytes) => {
    if (bytes.length > max)
      throw new Error(`agent: ${name}: answered ${bytes.length} bytes, at most ${max} are allowed`);
    const response = method.responseDeserialize(bytes);
    check?.(response);
    return response;
  };
}
