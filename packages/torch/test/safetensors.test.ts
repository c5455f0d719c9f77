import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  fromTypedArray,
  liveTensors,
  openSafetensors,
  ops,
  SafetensorsFile,
  scope,
  tensor,
  writeSafetensors,
} from '../src/index.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'safetensors-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** A file from a header object and data, without any check. */
function raw(header: unknown, data: Uint8Array, length?: bigint): string {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  const path = join(folder, 'raw.safetensors');
  writeFileSync(path, Buffer.concat([prefix, json, data]));
  return path;
}

describe('safetensors', () => {
  it('come back as they were written, with metadata', () => {
    scope(() => {
      const path = join(folder, 'x.safetensors');
      const tensors = new Map([
        ['bytes', fromTypedArray(new Uint8Array([1, 2, 3]), [3])],
        ['half', fromTypedArray(new Uint16Array([1, 2, 3]), [3], 'bfloat16')],
        [
          'strided',
          ops.t(
            tensor([
              [1, 2],
              [3, 4],
            ]),
          ),
        ],
        ['scalar', tensor(7)],
        ['empty', ops.zeros([0, 2])],
      ]);
      writeSafetensors(path, tensors, { metadata: { format: 'pt', answer: '42' } });
      const file = new SafetensorsFile(path);
      expect(file.metadata).toEqual({ format: 'pt', answer: '42' });
      expect([...file.infos.keys()].sort()).toEqual(['bytes', 'empty', 'half', 'scalar', 'strided']);
      for (const [name, expected] of tensors) {
        const actual = file.tensor(name);
        expect(actual.dtype).toBe(expected.dtype);
        expect(actual.shape).toEqual(expected.shape);
        expect(actual.toNumbers()).toEqual(expected.toNumbers());
      }
      expect(readdirSync(folder)).toEqual(['x.safetensors']);
    });
  });

  it('are mapped copy on write: changing a tensor leaves the file alone', () => {
    scope(() => {
      const path = join(folder, 'x.safetensors');
      writeSafetensors(path, new Map([['a', tensor([1, 2])]]));
      const before = readFileSync(path);
      const a = new SafetensorsFile(path).tensor('a');
      ops.addScalar_(a, 1);
      expect(a.toNumbers()).toEqual([2, 3]);
      expect(readFileSync(path).equals(before)).toBe(true);
    });
  });

  it('outlive their file object', () => {
    scope(() => {
      writeSafetensors(join(folder, 'model.safetensors'), new Map([['a', tensor([1, 2])]]));
      expect(openSafetensors(folder).tensor('a').toNumbers()).toEqual([1, 2]);
    });
    expect(liveTensors().tensors).toBe(0);
  });

  it('read data that is not aligned', () => {
    const data = new Uint8Array(5);
    new DataView(data.buffer).setFloat32(1, 1.5, true);
    const path = raw(
      { a: { dtype: 'U8', shape: [1], data_offsets: [0, 1] }, b: { dtype: 'F32', shape: [1], data_offsets: [1, 5] } },
      data,
    );
    scope(() => expect(new SafetensorsFile(path).tensor('b').toNumbers()).toEqual([1.5]));
  });

  const f32 = (shape: number[], offsets: number[]) => ({ dtype: 'F32', shape, data_offsets: offsets });
  it.each([
    [
      'a file of four bytes',
      () => {
        const p = join(folder, 'raw.safetensors');
        writeFileSync(p, 'abcd');
        return p;
      },
      /at least 8 bytes/,
    ],
    ['an absurd header length', () => raw('{}', new Uint8Array(), 1n << 60n), /header of 2 to/],
    ['a header that ends behind the file', () => raw('{}', new Uint8Array(), 500n), /file is cut/],
    ['a header that is not JSON', () => raw('{"a":', new Uint8Array()), /Expected JSON/],
    ['an array as header', () => raw('[1]', new Uint8Array()), /Expected an object/],
    [
      'an unknown dtype',
      () => raw({ a: { dtype: 'F99', shape: [1], data_offsets: [0, 4] } }, new Uint8Array(4)),
      /"a": Expected a known dtype but received "F99"/,
    ],
    ['a negative size', () => raw({ a: f32([-1], [0, 4]) }, new Uint8Array(4)), /Expected a list of sizes/],
    [
      'a shape that does not fill its bytes',
      () => raw({ a: f32([2], [0, 4]) }, new Uint8Array(4)),
      /Expected 8 bytes .* hold 4/,
    ],
    ['cut data', () => raw({ a: f32([2], [0, 8]) }, new Uint8Array(4)), /Expected .* bytes but the file has/],
    [
      'data behind the last tensor',
      () => raw({ a: f32([1], [0, 4]) }, new Uint8Array(8)),
      /Expected .* bytes but the file has/,
    ],
    [
      'overlapping tensors',
      () => raw({ a: f32([1], [0, 4]), b: f32([1], [2, 6]) }, new Uint8Array(6)),
      /overlap or leave a hole/,
    ],
    ['a hole', () => raw({ a: f32([1], [0, 4]), b: f32([1], [8, 12]) }, new Uint8Array(12)), /overlap or leave a hole/],
    ['a null entry', () => raw({ a: null }, new Uint8Array()), /"a": Expected/],
  ])('refuse %s', (_, make, message) => {
    expect(() => new SafetensorsFile(make())).toThrow(message);
  });

  it('read shards behind an index, and refuse an index that lies', () => {
    scope(() => {
      writeSafetensors(join(folder, 'm-1.safetensors'), new Map([['a', tensor([1])]]));
      writeSafetensors(join(folder, 'm-2.safetensors'), new Map([['b', tensor([2])]]));
      const index = (weight_map: object) =>
        writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map }));
      index({ a: 'm-1.safetensors', b: 'm-2.safetensors' });
      const source = openSafetensors(folder);
      expect(source.tensor('b').toNumbers()).toEqual([2]);
      expect(() => source.tensor('c')).toThrow(/Expected a tensor "c"/);
      index({ a: 'm-2.safetensors' });
      expect(() => openSafetensors(folder)).toThrow(/Expected the tensor "a"/);
      index({ a: 'm-1.safetensors', b: 'm-3.safetensors' });
      expect(() => openSafetensors(folder)).toThrow(/Expected the shard "m-3/);
      index({ a: '../m-1.safetensors' });
      expect(() => openSafetensors(folder)).toThrow(/Expected a file name/);
      index({ a: 'm-1.safetensors' });
      mkdirSync(join(folder, 'other'));
      expect(() => openSafetensors(join(folder, 'other'))).toThrow(/Expected model.safetensors or/);
    });
  });
});
