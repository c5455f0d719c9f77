import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  bytesOf,
  createSafetensors,
  fromTypedArray,
  liveTensors,
  openSafetensors,
  ops,
  planSafetensors,
  planShards,
  SafetensorsFile,
  SafetensorsWriter,
  scope,
  type Tensor,
  tensor,
  writeSafetensors,
  writeShardedSafetensors,
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

describe('safetensors in ranges', () => {
  /** Strided, of several types, larger than a piece, a scalar, and nothing. */
  function made(): Map<string, Tensor> {
    return new Map([
      ['wide', ops.reshape(ops.arange(0, 2_400_000, 1, { dtype: 'float32' }), [1200, 2000])],
      ['turned', ops.t(ops.reshape(ops.arange(0, 6000, 1, { dtype: 'float32' }), [60, 100]))],
      ['half', ops.to(ops.arange(0, 1000, 1, { dtype: 'float32' }), 'bfloat16')],
      ['scalar', tensor(7)],
      ['empty', ops.zeros([0, 2])],
      ['rows', fromTypedArray(BigInt64Array.of(3n, 1n), [2])],
    ]);
  }

  it('are read without a map', () => {
    scope(() => {
      const path = join(folder, 'bytes.safetensors');
      writeSafetensors(path, new Map([['a', tensor([1, 2, 3])], ['b', tensor([4], 'int64')]])); // biome-ignore format: one line
      const file = new SafetensorsFile(path);
      const bytes = new Uint8Array(8);
      file.readBytes('a', 4, bytes);
      expect([...new Float32Array(bytes.buffer)]).toEqual([2, 3]);
      expect(() => file.readBytes('a', 8, bytes)).toThrow(/a range of its 12 bytes but received 8 from 8/);
      expect(() => file.readBytes('c', 0, bytes)).toThrow(/Expected a tensor "c" but the file has none/);
    });
  });

  it('are the bytes of the format: the widest type first, then by name', () => {
    scope(() => {
      const path = join(folder, 'x.safetensors');
      writeSafetensors(path, new Map([['b', tensor([1, 2])], ['a', tensor([3], 'uint8')], ['c', tensor([4], 'int64')]])); // biome-ignore format: one line
      const header =
        '{"__metadata__":{"format":"pt"},"c":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},' +
        '"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"a":{"dtype":"U8","shape":[1],"data_offsets":[16,17]}}';
      const length = Math.ceil(header.length / 8) * 8;
      const prefix = Buffer.alloc(8);
      prefix.writeBigUInt64LE(BigInt(length));
      const data = Buffer.from('0400000000000000' + '0000803f00000040' + '03', 'hex');
      const wanted = Buffer.concat([prefix, Buffer.from(header.padEnd(length)), data]);
      expect(readFileSync(path).equals(wanted)).toBe(true);
    });
  });

  it('filled by several writers in any order are the file that one writes', () => {
    scope(() => {
      const [whole, parts] = [join(folder, 'whole.safetensors'), join(folder, 'parts.safetensors')];
      const tensors = made();
      writeSafetensors(whole, tensors);
      const plan = planSafetensors(new Map([...tensors].reverse()));
      createSafetensors(parts, plan);
      expect(readFileSync(parts).length).toBe(plan.bytes);
      const writers = [0, 1, 2].map(() => new SafetensorsWriter(parts, plan));
      let turn = 0;
      for (const [name, values] of tensors) {
        const flat = ops.reshape(values, [-1]);
        const cut = Math.floor(values.numel / 3);
        for (const [start, length] of [[2 * cut, values.numel - 2 * cut], [0, cut], [cut, cut]] as const) // biome-ignore format: one line
          writers[turn++ % 3]!.write(name, start, ops.narrow(flat, 0, start, length));
      }
      for (const writer of writers) writer.close();
      expect(readFileSync(parts).equals(readFileSync(whole))).toBe(true);
    });
  });

  it('never copy more than a piece of a tensor, and keep none', () => {
    scope(() => {
      const tensors = made();
      const before = liveTensors();
      for (const [name, values] of tensors) {
        const pieces = Array.from(bytesOf(values, 'float64', new Uint8Array(4096)), (bytes) => Buffer.from(bytes));
        const all = new Float64Array(Uint8Array.from(Buffer.concat(pieces)).buffer);
        const same = scope(() => ops.equal(fromTypedArray(all, values.shape), ops.to(values, 'float64')));
        expect(same, name).toBe(true);
        for (const piece of pieces) expect(piece.length).toBeLessThanOrEqual(4096);
      }
      expect(liveTensors()).toEqual(before);
    });
  });

  it('refuse what is not in the plan or not in the tensor', () => {
    scope(() => {
      const path = join(folder, 'x.safetensors');
      const plan = planSafetensors(new Map([['a', tensor([1, 2, 3])]]));
      createSafetensors(path, plan);
      using writer = new SafetensorsWriter(path, plan);
      expect(() => writer.write('b', 0, tensor([1]))).toThrow(/Expected a tensor of the plan but received "b"/);
      expect(() => writer.write('a', 2, tensor([1, 2]))).toThrow(/a range of its 3 numbers but received 2 from 2/);
      expect(() => writer.writeBytes('a', 8, new Uint8Array(5))).toThrow(/at most 12 bytes but received 5 from byte 8/);
      expect(() => new SafetensorsWriter(join(folder, 'none'), plan)).toThrow(/ENOENT/);
    });
  });

  it('are read in ranges', () => {
    scope(() => {
      const path = join(folder, 'x.safetensors');
      writeSafetensors(path, made());
      const file = new SafetensorsFile(path);
      expect(file.range('wide', 123_456, 3).toNumbers()).toEqual([123_456, 123_457, 123_458]);
      expect(file.range('turned', 100, 2).toNumbers()).toEqual([4001, 4101]);
      expect(file.range('half', 999, 1).toNumbers()).toEqual([1000]);
      expect(file.range('wide', 2_400_000, 0).shape).toEqual([0]);
      expect(() => file.range('wide', 2_399_999, 2)).toThrow(/2400000 numbers but received 2 from 2399999/);
      expect(() => file.range('nothing', 0, 1)).toThrow(/Expected a tensor "nothing"/);
    });
  });

  it('are planned as shards in the order of the tensors', () => {
    scope(() => {
      const tensors = made();
      const { files, index } = planShards(tensors, { maxShardBytes: 9_600_000 });
      expect([...files].map(([name, { tensors: own }]) => [name, [...own.keys()]])).toEqual([
        ['model-00001-of-00002.safetensors', ['wide']],
        ['model-00002-of-00002.safetensors', ['rows', 'empty', 'scalar', 'turned', 'half']],
      ]);
      const names = writeShardedSafetensors(folder, tensors, { maxShardBytes: 9_600_000 });
      expect(names).toEqual([...files.keys(), index!.name]);
      expect(readFileSync(join(folder, index!.name), 'utf8')).toBe(index!.text);
      for (const [name, { bytes }] of files) expect(readFileSync(join(folder, name)).length).toBe(bytes);
    });
  });
});
