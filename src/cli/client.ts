/** Client of a running server, over its CRI socket. */
import { type Client, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { AdminClient } from "../gen/admin/v1/admin.js";
import { ImageServiceClient, RuntimeServiceClient } from "../gen/runtime/v1/api.js";
import { type ErrorCode, PodvmError } from "../host/errors.js";

export interface Clients {
  readonly socket: string;
  readonly runtime: RuntimeServiceClient;
  readonly image: ImageServiceClient;
  readonly admin: AdminClient;
  close(): void;
}

const maxMessageBytes = 16 << 20;

/** Connects at the first call; close it when done, or the process does not end. */
export function connect(socket: string): Clients {
  const options = {
    "grpc.max_receive_message_length": maxMessageBytes,
    "grpc.max_send_message_length": maxMessageBytes,
    "grpc.default_authority": "localhost",
  };
  const address = `unix:${socket}`;
  const insecure = credentials.createInsecure();
  const runtime = new RuntimeServiceClient(address, insecure, options);
  const image = new ImageServiceClient(address, insecure, options);
  const admin = new AdminClient(address, insecure, options);
  return {
    socket,
    runtime,
    image,
    admin,
    close() {
      for (const client of [runtime, image, admin] as Client[]) client.close();
    },
  };
}

type Callback<Response> = (err: ServiceError | null, response: Response) => void;
type Unary<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: { deadline: number },
  callback: Callback<Response>,
) => unknown;

/**
 * One unary call with a deadline. `method` is a method of a client: `call(clients, clients.runtime, "version", {…})`. Rejects with a
 * PodvmError of the server's own code and words.
 */
export function call<C extends Client, M extends keyof C>(
  clients: Clients,
  client: C,
  method: M,
  request: RequestOf<C[M]>,
  deadlineMs = 30_000,
): Promise<ResponseOf<C[M]>> {
  return new Promise((resolve, reject) => {
    const invoke = client[method] as Unary<RequestOf<C[M]>, ResponseOf<C[M]>>;
    const options = { deadline: Date.now() + deadlineMs };
    invoke.call(client, request, new Metadata(), options, (err, response) => {
      if (err) reject(fromService(err, clients.socket));
      else resolve(response);
    });
  });
}

type RequestOf<T> = T extends {
  (request: infer R, callback: infer _1): unknown;
  (request: infer _2, metadata: Metadata, callback: infer _3): unknown;
  (request: infer _4, metadata: Metadata, options: infer _5, callback: infer _6): unknown;
}
  ? R
  : never;
type ResponseOf<T> = T extends {
  (request: infer _1, callback: infer _2): unknown;
  (request: infer _3, metadata: Metadata, callback: infer _4): unknown;
  (request: infer _5, metadata: Metadata, options: infer _6, callback: Callback<infer R>): unknown;
}
  ? R
  : never;

const codes: Partial<Record<status, ErrorCode>> = {
  [status.INVALID_ARGUMENT]: "invalid_argument",
  [status.NOT_FOUND]: "not_found",
  [status.ALREADY_EXISTS]: "already_exists",
  [status.FAILED_PRECONDITION]: "failed_precondition",
  [status.PERMISSION_DENIED]: "permission_denied",
  [status.UNAUTHENTICATED]: "unauthenticated",
  [status.RESOURCE_EXHAUSTED]: "resource_exhausted",
  [status.DEADLINE_EXCEEDED]: "deadline_exceeded",
  [status.UNAVAILABLE]: "unavailable",
  [status.UNIMPLEMENTED]: "unimplemented",
  [status.CANCELLED]: "cancelled",
};

/** A gRPC failure in the terms of PodVM; where nobody answers, it says how to get a server. */
export function fromService(err: ServiceError, socket: string): PodvmError {
  const code = codes[err.code] ?? "internal";
  // grpc-js puts the system's own words into the details of a connection that was not made.
  if (err.code === status.UNAVAILABLE && /ENOENT|ECONNREFUSED|EACCES|No connection established/.test(err.details)) {
    const why = /E[A-Z]{4,}/.exec(err.details)?.[0] ?? "no connection";
    const hint = why === "EACCES" ? "run it as root, or as a member of socket_group" : "start it with `podvm serve`";
    return new PodvmError("unavailable", `wanted a PodVM server on ${socket}, found none (${why}); ${hint}`, {
      cause: err,
    });
  }
  return new PodvmError(code, err.details || err.message, { cause: err });
}
