/**
 * TFRecords, the frames of TensorBoard's event files. Length, its masked CRC-32C, data, their masked CRC-32C. Format:
 * tensorflow/core/lib/io/record_writer.h.
 */

const HEADER = 12;
const FOOTER = 4;

/** One TFRecord. */
export function tfRecord(data: Buffer): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(data.length));
  return Buffer.concat([length, maskedCrc(length), data, maskedCrc(data)]);
}

function maskedCrc(data: Buffer): Buffer {
  const crc = crc32c(data);
  const masked = Buffer.alloc(4);
  masked.writeUInt32LE((((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0);
  return masked;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, i) => {
  let crc = i;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C (Castagnoli), RFC 3720 appendix B.4. */
export function crc32c(data: Uint8Array): number {
  let crc = ~0;
  for (const byte of data) crc = CRC_TABLE[(crc ^ byte) & 255]! ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Whether bytes are whole records, up to an unfinished last one. */
export function areTfRecords(bytes: Buffer): boolean {
  for (let at = 0; at + HEADER <= bytes.length; ) {
    const header = bytes.subarray(at, at + 8);
    if (!maskedCrc(header).equals(bytes.subarray(at + 8, at + HEADER))) return false;
    const end = at + HEADER + Number(header.readBigUInt64LE());
    if (end + FOOTER > bytes.length) return true; // the last one
    if (!maskedCrc(bytes.subarray(at + HEADER, end)).equals(bytes.subarray(end, end + FOOTER))) return false;
    at = end + FOOTER;
  }
  return true;
}
