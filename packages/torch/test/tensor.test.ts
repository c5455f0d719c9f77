import { describe, expect, it } from 'vitest';
import {
  about,
  alias,
  DTYPES,
  type DType,
  fromTypedArray,
  liveTensors,
  ops,
  TorchError,
  tensor,
} from '../src/index.js';

describe('tensors', () => {
  it('come from nested arrays and go back to numbers', () => {
    using x = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    expect(x.shape).toEqual([2, 3]);
    expect(x.dtype).toBe('float32');
    expect(x.device).toBe('cpu');
    expect(x.nbytes).toBe(24);
    expect(x.size(-1)).toBe(3);
    expect(x.toNumbers()).toEqual([1, 2, 3, 4, 5, 6]);
    expect(x.toTypedArray()).toEqual(new Float32Array([1, 2, 3, 4, 5, 6]));
  });

  it('come from typed arrays of every dtype without changing a bit', () => {
    const cases: [DType, Parameters<typeof fromTypedArray>[0]][] = [
      ['float32', new Float32Array([1.5, -2])],
      ['float64', new Float64Array([1.5, -2])],
      ['int64', new BigInt64Array([-(2n ** 40n), 7n])],
      ['int32', new Int32Array([-5, 7])],
      ['int16', new Int16Array([-5, 7])],
      ['int8', new Int8Array([-5, 7])],
      ['uint8', new Uint8Array([0, 255])],
      ['bool', new Uint8Array([0, 1])],
      ['float16', new Uint16Array([0x3c00, 0xc000])],
      ['bfloat16', new Uint16Array([0x3f80, 0xc000])],
    ];
    for (const [dtype, array] of cases) {
      using x = fromTypedArray(array, [2], dtype);
      expect(x.dtype).toBe(dtype);
      expect(x.nbytes).toBe(2 * DTYPES[dtype].bytes);
      expect(x.toTypedArray()).toEqual(array);
    }
    using half = fromTypedArray(new Uint16Array([0x3c00, 0xc000]), [2], 'float16');
    expect(half.toNumbers()).toEqual([1, -2]);
  });

  it('give numbers whatever the strides', () => {
    using x = tensor([
      [1, 2],
      [3, 4],
    ]);
    using transposed = ops.t(x);
    expect(transposed.isContiguous).toBe(false);
    expect(transposed.toNumbers()).toEqual([1, 3, 2, 4]);
    expect(() => transposed.toTypedArray()).toThrow(/contiguous/);
  });

  it('refuse a typed array of the wrong length, naming both', () => {
    expect(() => fromTypedArray(new Float32Array(3), [2, 2])).toThrow(/Expected 16 bytes .* but received 12/);
  });

  it('cannot be used after dispose; the error names the operator', () => {
    const x = tensor([1, 2]);
    x.dispose();
    x.dispose();
    expect(x.isDisposed).toBe(true);
    expect(() => ops.add(x, x)).toThrow(/aten::add: Expected a live tensor but received .* disposed/);
    expect(() => x.item()).toThrow(/item: Expected a live tensor/);
  });

  it('have aliases that live on their own', () => {
    const x = tensor([1, 2]);
    using y = alias(x);
    expect(x.sharesStorage(y)).toBe(true);
    x.dispose();
    expect(y.toNumbers()).toEqual([1, 2]);
  });

  it('never hand a freed handle to a later tensor', () => {
    const before = liveTensors().tensors;
    for (let i = 0; i < 1000; i++) tensor([i]).dispose();
    expect(liveTensors().tensors).toBe(before);
  });

  it('count the bytes of a storage once', () => {
    const before = liveTensors().bytes;
    using x = ops.zeros([1024]);
    using y = ops.view(x, [32, 32]);
    expect(liveTensors().bytes - before).toBe(4096);
    expect(y.nbytes).toBe(4096);
  });

  it('report libtorch errors with operator and operands, without a C++ backtrace', () => {
    using a = ops.zeros([2, 3]);
    using b = ops.zeros([2, 3]);
    expect(() => ops.mm(a, b)).toThrow(TorchError);
    expect(() => ops.mm(a, b)).toThrow(
      /^aten::mm\(Float\[2, 3\], Float\[2, 3\]\): mat1 and mat2 shapes cannot be multiplied/,
    );
    try {
      ops.mm(a, b);
    } catch (error) {
      expect((error as Error).message).not.toMatch(/frame #|Exception raised from/);
    }
  });

  it('know their library', () => {
    expect(about().version).toMatch(/^2\.\d+/);
  });
});
