/**
 * A VMDK descriptor: several flat files, one after another, as one disk. The format is VMware's "Virtual Disk Format 5.0";
 * QEMU's reader (block/vmdk.c) takes a blank line before the first extent as the end of the header and reads that extent twice.
 */
export function vmdkDescriptor(extents: readonly { file: string; bytes: number }[]): string {
  return [
    "# Disk DescriptorFile",
    "version=1",
    "CID=fffffffe",
    "parentCID=ffffffff",
    'createType="twoGbMaxExtentFlat"',
    ...extents.map(({ file, bytes }) => `RW ${bytes / 512} FLAT "${file}" 0`),
    "",
  ].join("\n");
}
