import { number, readDecimal, TarFormatError } from "./tar-fields.js";

/** Sparse files of GNU tar ("Storing Sparse Files" in its manual): the old header, and pax formats 0.0, 0.1 and 1.0. */
export interface SparsePiece {
  /** Where the piece belongs in the file. */
  offset: number;
  bytes: number;
}

/** Pieces of the header (4) or of an extension block (21). `more`: another extension block follows. */
export function oldSparsePieces(
  block: Buffer,
  extension = false,
): { pieces: SparsePiece[]; realSize: number; more: boolean } {
  const pieces: SparsePiece[] = [];
  const at = extension ? 0 : 386;
  for (let i = 0; i < (extension ? 21 : 4); i++) {
    const piece = at + i * 24;
    if (block[piece] === 0) break;
    pieces.push({
      offset: number(block, piece, 12, "sparse offset"),
      bytes: number(block, piece + 12, 12, "sparse size"),
    });
  }
  const realSize = extension ? 0 : number(block, 483, 12, "sparse file size");
  return { pieces, realSize, more: block[extension ? 504 : 482] !== 0 };
}

export function paxSparsePieces(keys: [string, string][]): SparsePiece[] {
  const numbers: number[] = [];
  for (const [key, value] of keys) {
    if (key === "GNU.sparse.map") for (const part of value.split(",")) numbers.push(readDecimal(part, "sparse map"));
    else if (key === "GNU.sparse.offset" || key === "GNU.sparse.numbytes") numbers.push(readDecimal(value, key));
  }
  return pairs(numbers);
}

/** The map of format 1.0: count, then offset and size of each piece, one number a line, padded to a block. */
export class SparseMapReader {
  blocks = 0;
  private text = "";
  private lines = 0;
  private wanted: number | undefined;

  /** @returns the pieces, or undefined until all the map's blocks were pushed. */
  push(block: Buffer): SparsePiece[] | undefined {
    this.blocks += 1;
    this.text += block.toString("latin1");
    for (const byte of block) if (byte === 0x0a) this.lines += 1;
    if (this.lines === 0) return undefined;
    this.wanted ??= 1 + 2 * readDecimal(this.text.slice(0, this.text.indexOf("\n")), "sparse map");
    if (this.lines < this.wanted) return undefined;
    const numbers = this.text.split("\n", this.wanted).slice(1);
    return pairs(numbers.map((line) => readDecimal(line, "sparse map")));
  }
}

function pairs(numbers: number[]): SparsePiece[] {
  if (numbers.length % 2 !== 0) throw new TarFormatError("sparse map has an odd count of numbers");
  const pieces: SparsePiece[] = [];
  for (let i = 0; i < numbers.length; i += 2) pieces.push({ offset: numbers[i] ?? 0, bytes: numbers[i + 1] ?? 0 });
  return pieces;
}
