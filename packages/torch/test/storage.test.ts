/** Memory behind tensors that stay, and what the optimizer needs of its own operators. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  dropStorage,
  enableGrad,
  fileTensor,
  fillStorage,
  grad,
  hasStorage,
  keep,
  leaveToFile,
  liveTensors,
  manualSeed,
  noGrad,
  ops,
  ownsStorage,
  pieceOf,
  readAhead,
  scope,
  setThreads,
  Transfer,
  threads,
} from '../src/index.js';

describe('a tensor whose memory comes and goes', () => {
  it('keeps shape, type and pieces; operators that read it say so', () => {
    scope(() => {
      const flat = ops.ones([6]);
      const piece = pieceOf(flat, 2, [2, 2]);
      const before = liveTensors().bytes;
      dropStorage(flat);
      expect(hasStorage(piece)).toBe(false);
      expect(liveTensors().bytes).toBe(before - flat.nbytes);
      expect(piece.shape).toEqual([2, 2]);
      expect(() => ops.add(piece, piece)).toThrow('the memory of Float[2, 2] was given back');
      fillStorage(flat);
      noGrad(() => ops.copy_(flat, ops.full([6], 3)));
      expect(piece.toNumbers()).toEqual([3, 3, 3, 3]);
    });
  });

  it('may be a leaf of a graph that is kept meanwhile: gradients are the same', () => {
    scope(() => {
      manualSeed(1);
      const values = ops.randn([64 * 64]);
      const x = ops.randn([3, 64]);
      const gradients = [false, true].map((goes) => {
        const flat = ops.clone(values);
        const weight = keep(pieceOf(flat, 0, [64, 64]));
        weight.requiresGrad = true;
        const y = enableGrad(() => ops.sumAll(ops.silu(ops.linear(ops.silu(ops.linear(x, weight)), weight))));
        if (goes) {
          dropStorage(flat);
          fillStorage(flat);
          noGrad(() => ops.copy_(flat, values)); // a write that autograd would refuse for an ordinary view
        }
        const [gradient] = grad([y], [weight]);
        return gradient!.toNumbers();
      });
      expect(gradients[1]).toEqual(gradients[0]);
    });
  });

  it('is one that libtorch allocated', () => {
    scope(() => expect(ownsStorage(ops.zeros([3]))).toBe(true));
  });
});

describe('a tensor whose memory is a file', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'file-tensor-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('begins with zeros, and keeps what is written when its memory is given back', () => {
    scope(() => {
      const numbers = fileTensor(folder, [3, 5000], 'float32');
      expect([numbers.shape, numbers.dtype, numbers.device]).toEqual([[3, 5000], 'float32', 'cpu']);
      expect(ops.sumAll(ops.abs(numbers)).item()).toBe(0);
      const wanted = ops.arange(0, 15_000, 1, { dtype: 'float32' });
      ops.copy_(numbers, ops.view(wanted, [3, 5000]));
      const half = pieceOf(ops.view(numbers, [-1]), 7500, [7500]);
      leaveToFile(half); // of all of the file
      readAhead(numbers);
      expect(numbers.toTypedArray()).toEqual(wanted.toTypedArray());
      expect(ownsStorage(numbers)).toBe(false);
    });
  });

  it('has no name in the folder', () => {
    scope(() => {
      fileTensor(folder, [10], 'bfloat16');
      expect(readdirSync(folder)).toEqual([]);
    });
  });

  it('needs a folder, and numbers', () => {
    expect(() => fileTensor(join(folder, 'none'), [2], 'float32')).toThrow(/none: No such file or directory/);
    expect(() => fileTensor(folder, [0], 'float32')).toThrow('expected a tensor with numbers');
  });

  it('is the only one that is left to a file: what is in memory would be lost', () => {
    scope(() => expect(() => leaveToFile(ops.ones([4]))).toThrow('expected a tensor with a file of its own'));
  });
});

describe('Transfer on the CPU', () => {
  it('copies in the type of the target, and fetches only what is not there yet', () => {
    using transfer = new Transfer('cpu');
    scope(() => {
      const source = ops.arange(0, 6, 1, { dtype: 'float32' });
      const target = ops.zeros([6], { dtype: 'bfloat16' });
      transfer.toDevice(target, source);
      expect(target.toNumbers()).toEqual([0, 1, 2, 3, 4, 5]);
      expect(transfer.toHost(source, 'float32')).toBe(source);
      expect(transfer.toHost(target, 'float32').toNumbers()).toEqual(source.toNumbers());
      const columns = ops.t(ops.view(source, [2, 3]));
      expect(transfer.toHost(columns, 'float32').isContiguous).toBe(true);
    });
  });
});

describe('sumOfSquares', () => {
  it.each(['float32', 'bfloat16', 'float16', 'float64'] as const)('is exact to float64 in %s', (dtype) => {
    scope(() => {
      manualSeed(2);
      const tensors = [70_000, 3, 0, 16_384].map((count) => ops.to(ops.randn([count]), dtype));
      const want = tensors.flatMap((one) => one.toNumbers()).reduce((sum, x) => sum + x * x, 0);
      // Float64 in another order: some 90 000 additions of positive numbers, each rounded.
      expect(Math.abs(ops.sumOfSquares(tensors).item() / want - 1)).toBeLessThan(90_000 * 2 ** -53);
    });
  });

  it('has the same bits for any number of threads, also of what is not contiguous', () => {
    scope(() => {
      const x = ops.randn([300, 700]);
      const before = threads();
      const sums = [1, 2, 3].map((count) => {
        setThreads(count);
        return ops.sumOfSquares([x]).item();
      });
      setThreads(before);
      expect(new Set(sums).size).toBe(1);
      const turned = ops.transpose(x, 0, 1);
      expect(ops.sumOfSquares([turned]).item()).toBe(ops.sumOfSquares([ops.contiguous(turned)]).item());
    });
  });

  it('does not overflow where the sum is larger than float32, and is infinite where a number is', () => {
    scope(() => {
      expect(ops.sumOfSquares([ops.full([4], 1e30)]).item()).toBeCloseTo(4e60, -58);
      expect(ops.sumOfSquares([ops.full([2], Number.POSITIVE_INFINITY)]).item()).toBe(Number.POSITIVE_INFINITY);
    });
  });
});
