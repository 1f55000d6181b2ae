/**
 * The position record of one container's log: up to which byte of each stream lines have been written, and how long the log file was
 * then. It is written after the lines and before the agent may drop the bytes, so that after a crash
 * the log is cut to that length and output goes on from these offsets: nothing is lost, nothing doubled.
 *
 * Two slots of fixed size are written in turn, each with a number and a checksum: the one with the higher number counts, and a torn write
 * costs only itself. No fsync: it has to survive the server, not the machine (whose VMs are gone then).
 */
import { crc32 } from "node:zlib";
import { PodvmError } from "../host/errors.js";

/** Which file it is, beyond its name: an inode number alone may be used again. */
export interface FileIdentity {
  dev: bigint;
  ino: bigint;
  birthtimeNs: bigint;
}

export interface LogPosition {
  stdout: number;
  stderr: number;
  stdoutEof: boolean;
  stderrEof: boolean;
  /** Absent where the container has no log. */
  log?: { file: FileIdentity; size: number };
}

export const SLOT_BYTES = 128;
const MAGIC = 0x504c5650; // "PVLP"
const VERSION = 1;
const CHECKED_BYTES = SLOT_BYTES - 4;
const FLAG_STDOUT_EOF = 1;
const FLAG_STDERR_EOF = 2;
const FLAG_LOG = 4;

/** `number` decides which of two slots is newer; it goes to slot `number % 2`. */
export function encodePosition(position: LogPosition, number: number): Buffer {
  const slot = Buffer.alloc(SLOT_BYTES);
  slot.writeUInt32LE(MAGIC, 0);
  slot.writeUInt32LE(VERSION, 4);
  slot.writeBigUInt64LE(BigInt(number), 8);
  slot.writeBigUInt64LE(BigInt(position.stdout), 16);
  slot.writeBigUInt64LE(BigInt(position.stderr), 24);
  let flags = position.stdoutEof ? FLAG_STDOUT_EOF : 0;
  if (position.stderrEof) flags |= FLAG_STDERR_EOF;
  if (position.log) {
    flags |= FLAG_LOG;
    slot.writeBigUInt64LE(position.log.file.dev, 40);
    slot.writeBigUInt64LE(position.log.file.ino, 48);
    slot.writeBigInt64LE(position.log.file.birthtimeNs, 56);
    slot.writeBigUInt64LE(BigInt(position.log.size), 64);
  }
  slot.writeUInt32LE(flags, 32);
  slot.writeUInt32LE(crc32(slot.subarray(0, CHECKED_BYTES)), CHECKED_BYTES);
  return slot;
}

/** The newer valid slot, or undefined for an empty file. Rejects a file that holds something but no valid slot. */
export function decodePosition(file: Buffer): { position: LogPosition; number: number } | undefined {
  if (file.length === 0) return undefined;
  const found = [file.subarray(0, SLOT_BYTES), file.subarray(SLOT_BYTES, 2 * SLOT_BYTES)]
    .map(decodeSlot)
    .filter((slot) => slot !== undefined)
    .sort((a, b) => b.number - a.number);
  if (!found[0]) throw new PodvmError("internal", "the log's position record is damaged: no valid slot");
  return found[0];
}

function decodeSlot(slot: Buffer): { position: LogPosition; number: number } | undefined {
  if (slot.length !== SLOT_BYTES || slot.readUInt32LE(0) !== MAGIC || slot.readUInt32LE(4) !== VERSION)
    return undefined;
  if (crc32(slot.subarray(0, CHECKED_BYTES)) !== slot.readUInt32LE(CHECKED_BYTES)) return undefined;
  const flags = slot.readUInt32LE(32);
  const position: LogPosition = {
    stdout: Number(slot.readBigUInt64LE(16)),
    stderr: Number(slot.readBigUInt64LE(24)),
    stdoutEof: (flags & FLAG_STDOUT_EOF) !== 0,
    stderrEof: (flags & FLAG_STDERR_EOF) !== 0,
  };
  if ((flags & FLAG_LOG) !== 0) {
    position.log = {
      file: {
        dev: slot.readBigUInt64LE(40),
        ino: slot.readBigUInt64LE(48),
        birthtimeNs: slot.readBigInt64LE(56),
      },
      size: Number(slot.readBigUInt64LE(64)),
    };
  }
  return { position, number: Number(slot.readBigUInt64LE(8)) };
}

export function sameFile(a: FileIdentity, b: FileIdentity): boolean {
  return a.ino === b.ino && a.dev === b.dev && a.birthtimeNs === b.birthtimeNs;
}
