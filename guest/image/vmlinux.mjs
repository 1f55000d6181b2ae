// Takes the uncompressed kernel out of a bzImage. A VMM enters it directly (PVH), which spares the guest the unpacking at every boot.
// Layout of a bzImage: Documentation/arch/x86/boot.rst.
import { execFileSync } from "node:child_process";

const XEN_ELFNOTE_PHYS32_ENTRY = 18;

/** image: bzImage; tools: folder with zstd and xz. Answers the ELF file; throws when it is none, or has no PVH entry. */
export function extractVmlinux(image, tools) {
  if (image.toString("latin1", 0x202, 0x206) !== "HdrS") throw new Error("not a bzImage: no HdrS signature at 0x202");
  const setupSectors = image[0x1f1] || 4;
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248);
  const packed = image.subarray(start, start + image.readUInt32LE(0x24c) - 4); // the last four bytes are the unpacked size
  const elf = execFileSync(...unpacker(packed, tools), { input: packed, maxBuffer: 512 << 20 });
  if (!hasPvhEntry(elf)) throw new Error("the kernel has no PVH entry (CONFIG_PVH)");
  return elf;
}

function unpacker(packed, tools) {
  const magic = packed.toString("hex", 0, 6);
  if (magic.startsWith("28b52ffd")) return [`${tools}/zstd`, ["-dcq", "--long=31"]];
  if (magic.startsWith("fd377a585a00")) return [`${tools}/xz`, ["-dcq"]];
  throw new Error(`the kernel is packed in a way this does not know (wanted zstd or xz, found magic ${magic})`);
}

/** Looks through the program headers of an ELF64 file for the note "Xen", type PHYS32_ENTRY. */
function hasPvhEntry(elf) {
  if (elf.toString("hex", 0, 5) !== "7f454c4602") throw new Error("the unpacked kernel is no 64-bit ELF file");
  const table = Number(elf.readBigUInt64LE(0x20));
  const size = elf.readUInt16LE(0x36);
  for (let i = 0; i < elf.readUInt16LE(0x38); i++) {
    const header = table + i * size;
    if (elf.readUInt32LE(header) !== 4) continue; // PT_NOTE
    let at = Number(elf.readBigUInt64LE(header + 8));
    const end = at + Number(elf.readBigUInt64LE(header + 32));
    while (at + 12 <= end) {
      const [nameSize, dataSize, type] = [elf.readUInt32LE(at), elf.readUInt32LE(at + 4), elf.readUInt32LE(at + 8)];
      if (type === XEN_ELFNOTE_PHYS32_ENTRY && elf.toString("latin1", at + 12, at + 15) === "Xen") return true;
      at += 12 + ((nameSize + 3) & ~3) + ((dataSize + 3) & ~3);
    }
  }
  return false;
}
