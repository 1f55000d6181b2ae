/**
 * The one wrapper around every RPC: readiness gate, request log, deadline, duration and code metric, trace span, and
 * errors → gRPC status. Handlers hold none of it.
 *
 * What is logged of a request is an allow-list (ids, names, image reference): environment, credentials, arguments and output never are.
 */
import { once } from "node:events";
import type {
  handleServerStreamingCall,
  handleUnaryCall,
  ServerUnaryCall,
  ServerWritableStream,
  ServiceDefinition,
  UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { status } from "@grpc/grpc-js";
import { PodvmError } from "../host/errors.js";
import type { Logger } from "../host/log.js";
import type { CallContext, Handlers, StreamHandler, UnaryHandler } from "./handlers.js";
import { type GrpcStatus, statusName, toStatus } from "./status.js";

/** Spans for whoever traces. `start` must not throw. */
export interface TraceHook {
  start(method: string, requestId: string): { end(code: string): void };
}

export interface WrapperOptions {
  logger: Logger;
  /** False: only Version and Status are answered, the rest is UNAVAILABLE. */
  ready: () => boolean;
  /** Called once per call with the status's name and the seconds it took. */
  observe?: (method: string, code: string, seconds: number) => void;
  trace?: TraceHook;
  /** Aborted when the server begins to stop: ends streams, which would else never end. Unary calls go on. */
  stopping?: AbortSignal;
  /** Milliseconds after which a unary call is called slow. Default 5 s. */
  slowMs?: number;
}

/** kubelet asks for these while the runtime recovers, and shows what Status says. */
const ALWAYS = new Set(["Version", "Status"]);
/** Last as long as what they wait for. */
const NEVER_SLOW = new Set(["PullImage", "StopContainer", "StopPodSandbox", "ExecSync"]);

/** A grpc-js implementation of `service` that answers through `handlers`. Streaming requests do not exist in CRI. */
export function wrapService<Service extends ServiceDefinition>(
  service: Service,
  handlers: Handlers<Service>,
  options: WrapperOptions,
): UntypedServiceImplementation {
  const implementation: UntypedServiceImplementation = {};
  for (const [name, definition] of Object.entries(service)) {
    const method = definition.path.slice(definition.path.lastIndexOf("/") + 1);
    const handler: unknown = (handlers as Record<string, unknown>)[name];
    if (typeof handler !== "function") throw new PodvmError("internal", `no handler for ${definition.path}`);
    implementation[name] = definition.responseStream
      ? streaming(method, handler as StreamHandler<unknown, unknown>, options)
      : unary(method, handler as UnaryHandler<unknown, unknown>, options);
  }
  return implementation;
}

function unary(
  method: string,
  handler: UnaryHandler<unknown, unknown>,
  options: WrapperOptions,
): handleUnaryCall<unknown, unknown> {
  return (call, callback) => {
    const current = begin(method, call, options);
    void (async () => {
      try {
        gate(method, options);
        const response = await handler(call.request, current.ctx);
        current.finish();
        callback(null, response);
      } catch (err) {
        callback(current.finish(err));
      }
    })();
  };
}

function streaming(
  method: string,
  handler: StreamHandler<unknown, unknown>,
  options: WrapperOptions,
): handleServerStreamingCall<unknown, unknown> {
  return (call) => {
    const current = begin(method, call, options);
    const { signal } = current.ctx;
    void (async () => {
      try {
        gate(method, options);
        await pump(handler(call.request, current.ctx), call, signal);
        current.finish();
        call.end();
      } catch (err) {
        const told = current.finish(err);
        if (!call.destroyed) call.emit("error", told);
      }
    })();
  };
}

/** Writes what the iterable gives, at the client's pace. Ends with the signal's reason when that aborts, even if no item comes. */
async function pump(items: AsyncIterable<unknown>, call: ServerWritableStream<unknown, unknown>, signal: AbortSignal) {
  const iterator = items[Symbol.asyncIterator]();
  // One listener for the stream's whole life: racing each item against one long-lived promise would pile up reactions on it.
  let giveUp = (_reason: unknown) => {};
  const onAbort = () => giveUp(signal.reason);
  const unlessAborted = <T>(work: Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      giveUp = reject;
      if (signal.aborted) onAbort();
      work.then(resolve, reject);
    });
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    for (;;) {
      const next = await unlessAborted(iterator.next());
      if (next.done) return;
      if (!call.write(next.value)) await unlessAborted(once(call, "drain", { signal }));
    }
  } finally {
    signal.removeEventListener("abort", onAbort);
    // Not awaited: a generator that waits for its source only returns when that wakes up; the signal tells the source.
    void Promise.resolve(iterator.return?.()).catch(() => {});
  }
}

function gate(method: string, options: WrapperOptions): void {
  if (options.ready() || ALWAYS.has(method)) return;
  throw new PodvmError("unavailable", `${method}: PodVM is still recovering its pods after a start; try again`);
}

let requests = 0;

interface Current {
  ctx: CallContext;
  /** Ends span, metric and log; answers what to tell the client about `err`. */
  finish(err?: unknown): GrpcStatus;
}

function begin(
  method: string,
  call: ServerUnaryCall<unknown, unknown> | ServerWritableStream<unknown, unknown>,
  options: WrapperOptions,
): Current {
  requests += 1;
  const requestId = `r${requests.toString(36)}`;
  const started = process.hrtime.bigint();
  const logger = options.logger.child({ method, requestId });
  const span = options.trace?.start(method, requestId);
  const abort = new AbortController();
  const deadline = call.getDeadline();
  const until = deadline instanceof Date ? deadline.getTime() : deadline;

  const onCancelled = () => {
    const late = Date.now() >= until;
    abort.abort(
      late
        ? new PodvmError("deadline_exceeded", `${method}: the client's deadline has passed`)
        : new PodvmError("cancelled", `${method}: the client went away`),
    );
  };
  const onStopping = () => abort.abort(new PodvmError("unavailable", `${method}: PodVM is stopping`));
  call.on("cancelled", onCancelled);
  if (call.cancelled) onCancelled();
  const endless = "write" in call;
  if (endless) {
    options.stopping?.addEventListener("abort", onStopping, { once: true });
    if (options.stopping?.aborted) onStopping();
  }

  const ctx: CallContext = {
    method,
    requestId,
    signal: abort.signal,
    logger,
    ...(Number.isFinite(until) ? { deadline: new Date(until) } : {}),
  };
  const request = describe(call.request);
  logger.debug("request", request);

  const finish = (err?: unknown): GrpcStatus => {
    call.off("cancelled", onCancelled);
    options.stopping?.removeEventListener("abort", onStopping);
    const told: GrpcStatus = err === undefined ? { code: status.OK, details: "OK" } : toStatus(err);
    const code = statusName(told.code);
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    span?.end(code);
    options.observe?.(method, code, seconds);
    const fields = { code, seconds: Math.round(seconds * 1e6) / 1e6, ...request };
    if (err !== undefined) logFailure(logger, told, err, fields);
    else if (!endless && !NEVER_SLOW.has(method) && seconds * 1000 > (options.slowMs ?? 5000)) {
      logger.warn("request done, slowly", fields);
    } else logger.debug("request done", fields);
    return told;
  };
  return { ctx, finish };
}

function logFailure(logger: Logger, told: GrpcStatus, err: unknown, fields: Record<string, unknown>): void {
  const all = { ...fields, error: told.details };
  switch (told.code) {
    case status.INTERNAL:
      logger.error("request failed", { ...all, err: err instanceof Error ? err : new Error(String(err)) });
      break;
    case status.UNAVAILABLE:
    case status.DEADLINE_EXCEEDED:
    case status.RESOURCE_EXHAUSTED:
      logger.warn("request failed", all);
      break;
    default:
      logger.info("request refused", all);
  }
}

const MAX_LOGGED = 128;

/** The fields of a request that may be logged. */
function describe(request: unknown): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  const put = (key: string, value: unknown) => {
    if (typeof value === "string" && value !== "") out[key] = value.slice(0, MAX_LOGGED);
  };
  const top = asRecord(request);
  put("podSandboxId", top.podSandboxId);
  put("containerId", top.containerId);
  put("runtimeHandler", top.runtimeHandler);
  put("image", asRecord(top.image).image);
  const filter = asRecord(top.filter);
  put("filterId", filter.id);
  const config = asRecord(top.config);
  const metadata = asRecord(config.metadata);
  put("name", metadata.name);
  put("namespace", metadata.namespace);
  put("uid", metadata.uid);
  put("configImage", asRecord(config.image).image);
  return out;
}

function asRecord(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
}
