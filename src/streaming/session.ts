/**
 * What the streaming room and the pod room say to each other. The streaming room speaks SPDY and WebSocket with clients; a backend runs the
 * commands. Bytes cross here with back-pressure in both directions: what one side does not take stalls the other's sender.
 */

/** Bytes from the client. Ends when the client has closed this direction, throws when its connection is gone. To be iterated once. */
export type ByteSource = AsyncIterable<Buffer>;

/** Bytes to the client. */
export interface ByteSink {
  /**
   * Resolves when the connection takes more; rejects with cancelled when it is gone, or the client has closed this stream. The buffer
   * is the sink's from then on. Not to be called again before it has settled.
   */
  write(data: Buffer): Promise<void>;
  /** No more bytes in this direction. Idempotent, never rejects. */
  end(): Promise<void>;
}

export interface TerminalSize {
  /** 1 to 65535 columns. */
  width: number;
  /** 1 to 65535 rows. */
  height: number;
}

/** Standard streams of a command as the client sees them; a stream that was not asked for is absent. */
export interface RemoteIo {
  stdin?: ByteSource;
  stdout?: ByteSink;
  stderr?: ByteSink;
  /** Sizes as they come; one that is overtaken by a newer is left out. Ends with the session. */
  resize: AsyncIterable<TerminalSize>;
  /** Aborted when the client is gone. */
  signal: AbortSignal;
}

export interface ForwardIo {
  source: ByteSource;
  sink: ByteSink;
  /** Aborted when the client is gone or has given this connection up. */
  signal: AbortSignal;
}

export interface ExecRequest {
  kind: "exec";
  containerId: string;
  command: string[];
  tty: boolean;
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
}

export interface AttachRequest {
  kind: "attach";
  containerId: string;
  tty: boolean;
  stdin: boolean;
  stdout: boolean;
  stderr: boolean;
}

export interface ForwardRequest {
  kind: "portforward";
  podId: string;
  /** Which ports, where the client's protocol does not name one per connection. */
  ports: number[];
}

export type StreamRequest = ExecRequest | AttachRequest | ForwardRequest;

/** The streaming room ends the sinks and reports the outcome; a backend only settles. It must settle soon after `signal` is aborted. */
export interface StreamBackend {
  /** Answers the exit code, 0 to 255, after all output was written. */
  exec(request: ExecRequest, io: RemoteIo): Promise<number>;
  /** Resolves when the container has ended, or the client has nothing more to wait for. */
  attach(request: AttachRequest, io: RemoteIo): Promise<void>;
  /** One TCP connection to a port inside the pod. Resolves when both directions have ended. */
  portForward(podId: string, port: number, io: ForwardIo): Promise<void>;
}
