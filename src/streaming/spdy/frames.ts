/** Constants and encoders of SPDY/3.1 frames; the wire layout is in docs/streaming.md. */

/** Types of control frames. */
export const FrameType = {
  SYN_STREAM: 1,
  SYN_REPLY: 2,
  RST_STREAM: 3,
  SETTINGS: 4,
  PING: 6,
  GOAWAY: 7,
  HEADERS: 8,
  WINDOW_UPDATE: 9,
} as const;

/** Flags of SYN_STREAM, SYN_REPLY, HEADERS and data frames. */
export const FLAG_FIN = 1;
/** Flag of SYN_STREAM: the receiver must not send. */
export const FLAG_UNIDIRECTIONAL = 2;

/** Codes of RST_STREAM. */
export const Reset = { PROTOCOL_ERROR: 1, REFUSED_STREAM: 3, CANCEL: 5, FLOW_CONTROL_ERROR: 7 } as const;
/** Codes of GOAWAY. */
export const GoAway = { OK: 0, PROTOCOL_ERROR: 1 } as const;

/** Id of the one setting that matters here. */
export const SETTINGS_INITIAL_WINDOW_SIZE = 7;
export const DEFAULT_WINDOW = 64 * 1024;
export const MAX_WINDOW = 0x7fffffff;

export const HEADER_BYTES = 8;
const VERSION = 3;

export type FrameHead =
  | { control: true; version: number; type: number; flags: number; length: number }
  | { control: false; streamId: number; flags: number; length: number };

/** The first eight bytes of any frame. */
export function parseHead(bytes: Buffer): FrameHead {
  const first = bytes.readUInt32BE(0);
  const flags = bytes.readUInt8(4);
  const length = bytes.readUIntBE(5, 3);
  if (first & 0x80000000)
    return { control: true, version: (first >>> 16) & 0x7fff, type: first & 0xffff, flags, length };
  return { control: false, streamId: first, flags, length };
}

export function dataHead(streamId: number, length: number, fin: boolean): Buffer {
  const head = Buffer.allocUnsafe(HEADER_BYTES);
  head.writeUInt32BE(streamId, 0);
  head.writeUInt32BE(length, 4);
  head.writeUInt8(fin ? FLAG_FIN : 0, 4);
  return head;
}

export function control(type: number, payload: Buffer, flags = 0): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  frame.writeUInt16BE(0x8000 | VERSION, 0);
  frame.writeUInt16BE(type, 2);
  frame.writeUInt32BE(payload.length, 4);
  frame.writeUInt8(flags, 4);
  payload.copy(frame, HEADER_BYTES);
  return frame;
}

function words(...values: number[]): Buffer {
  const bytes = Buffer.allocUnsafe(values.length * 4);
  values.forEach((value, i) => {
    bytes.writeUInt32BE(value, i * 4);
  });
  return bytes;
}

export const synReply = (streamId: number, block: Buffer) =>
  control(FrameType.SYN_REPLY, Buffer.concat([words(streamId), block]));
export const rstStream = (streamId: number, code: number) => control(FrameType.RST_STREAM, words(streamId, code));
export const ping = (id: number) => control(FrameType.PING, words(id));
export const goAway = (lastStreamId: number, code: number) => control(FrameType.GOAWAY, words(lastStreamId, code));
export const windowUpdate = (streamId: number, delta: number) =>
  control(FrameType.WINDOW_UPDATE, words(streamId, delta));
