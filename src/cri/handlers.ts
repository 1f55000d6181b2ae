/**
 * What the CRI verbs are written against. The types derive from the generated service descriptors, so an RPC that is missing, or
 * answers the wrong message, does not compile.
 */
import type { ImageServiceService, RuntimeServiceService } from "../gen/runtime/v1/api.js";
import type { Logger } from "../host/log.js";

/** What a handler knows about its call, beside the request. */
export interface CallContext {
  /** "RunPodSandbox" … */
  readonly method: string;
  /** Unique in this process; in every log line of the call. */
  readonly requestId: string;
  /** Aborted when the client went away, its deadline passed, or (streams only) the server stops. */
  readonly signal: AbortSignal;
  /** When the client stops waiting. Absent: it said nothing. */
  readonly deadline?: Date;
  /** Carries method and request id. */
  readonly logger: Logger;
}

export type UnaryHandler<Request, Response> = (request: Request, ctx: CallContext) => Promise<Response>;

/** The iterable is returned (its `finally` runs) when the client goes away. */
export type StreamHandler<Request, Response> = (request: Request, ctx: CallContext) => AsyncIterable<Response>;

/** The part of a generated method descriptor that decides a handler's type. */
export interface MethodShape<Request, Response, Streams extends boolean> {
  requestStream: false;
  responseStream: Streams;
  requestDeserialize: (bytes: Buffer) => Request;
  responseDeserialize: (bytes: Buffer) => Response;
}

export type HandlerOf<Method> =
  Method extends MethodShape<infer Request, infer Response, false>
    ? UnaryHandler<Request, Response>
    : Method extends MethodShape<infer Request, infer Response, true>
      ? StreamHandler<Request, Response>
      : never;

/** One handler per method of a generated service. */
export type Handlers<Service> = { [Method in keyof Service]: HandlerOf<Service[Method]> };

export type RuntimeHandlers = Handlers<typeof RuntimeServiceService>;
export type ImageHandlers = Handlers<typeof ImageServiceService>;
