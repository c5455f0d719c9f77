import { describe, expect, it } from 'vitest';
import { areTfRecords, crc32c, tfRecord } from '../src/index.js';

describe('TFRecords', () => {
  it('checksums are CRC-32C: the examples of RFC 3720, B.4', () => {
    expect(crc32c(Buffer.alloc(32))).toBe(0x8a9136aa);
    expect(crc32c(Buffer.alloc(32, 255))).toBe(0x62a8ab43);
    expect(crc32c(Buffer.from(Array.from({ length: 32 }, (_, i) => i)))).toBe(0x46dd794e);
  });

  it('frames are length, masked checksum, data, masked checksum', () => {
    const framed = tfRecord(Buffer.from('abc'));
    expect(framed.readBigUInt64LE()).toBe(3n);
    expect(framed.subarray(12, 15).toString()).toBe('abc');
    const unmask = (masked: number): number => {
      const rotated = (masked - 0xa282ead8) >>> 0;
      return ((rotated >>> 17) | (rotated << 15)) >>> 0;
    };
    expect(unmask(framed.readUInt32LE(8))).toBe(crc32c(framed.subarray(0, 8)));
    expect(unmask(framed.readUInt32LE(15))).toBe(crc32c(Buffer.from('abc')));
  });

  it('are told from other bytes; the last one may be unfinished', () => {
    const two = Buffer.concat([tfRecord(Buffer.from('abc')), tfRecord(Buffer.from('defg'))]);
    for (const bytes of [Buffer.alloc(0), two, two.subarray(0, -1), two.subarray(0, 25)])
      expect(areTfRecords(bytes)).toBe(true);
    expect(areTfRecords(Buffer.concat([two, Buffer.from('notes of the user')]))).toBe(false);
    for (const at of [0, 9, 13, 17]) {
      const changed = Buffer.from(two);
      changed[at]! ^= 1;
      expect(areTfRecords(changed), `byte ${at}`).toBe(false);
    }
  });
});
