/** The loss in parts: what it says and what it holds do not depend on how many there are. */
import {
  countMetaBytes,
  enableGrad,
  fromTypedArray,
  grad,
  liveTensors,
  manualSeed,
  metaBytes,
  ops,
  resetMetaPeak,
  scope,
  type Tensor,
} from '@minicpm-finetune/torch';
import { beforeEach, describe, expect, it } from 'vitest';
import { expectNear, roundings } from '../../../torch/test/precision.js';
import { type Head, lossAndGradient, lossSum, stretchLogProbs } from '../../src/engine/loss.js';

beforeEach(() => manualSeed(1)); // otherwise other numbers each time, of which some would be rare

const [POSITIONS, SUPERVISED, SIZE, CLASSES] = [400, 320, 8, 200_000]; // 256 MB of logits: two parts, of a trained head one
const LABELS = Int32Array.from({ length: POSITIONS }, (_, i) => (i % 5 === 2 ? -100 : (i * 7919) % CLASSES));

/** A gradient is a sum over all classes, in float32. */
const GRADIENT = roundings(Math.sqrt(CLASSES));

const headOf = (weight: Tensor, trains: boolean): Head => ({
  logits: (hidden) => ops.linear(hidden, weight),
  vocabSize: weight.size(0),
  trainable: new Map(trains ? [['lm_head.weight', weight]] : []),
});

/** Losses of the supervised positions, summed with `weights`, and the gradients: all at once, by libtorch. */
function whole(hidden: Tensor, weight: Tensor, weights: Float64Array | undefined): [Tensor, Tensor, Tensor] {
  const [x, w] = [ops.detach(hidden), ops.detach(weight)];
  x.requiresGrad = true;
  w.requiresGrad = true;
  const target = fromTypedArray(BigInt64Array.from(LABELS, BigInt), [POSITIONS], 'int64');
  const losses = enableGrad(() => ops.crossEntropyLoss(ops.linear(ops.squeeze(x, 0), w), target, null, 0));
  const factors = new Float32Array(POSITIONS);
  let at = 0;
  for (const [i, label] of LABELS.entries()) if (label !== -100) factors[i] = 0.5 * (weights?.[at++] ?? 1);
  const [gradX, gradWeight] = grad([losses], [x, w], { gradOutputs: [fromTypedArray(factors, [POSITIONS])] });
  return [ops.detach(losses), gradX!, gradWeight!];
}

const hiddenOf = (): Tensor => ops.reshape(ops.randn([POSITIONS, SIZE]), [1, POSITIONS, SIZE]);
const numbers = (x: Tensor): number[] => ops.reshape(x, [-1]).toNumbers();

describe('the loss in parts', () => {
  for (const [weighted, trains] of [
    [false, true],
    [true, false],
  ] as const) {
    it(`is that of all logits: ${weighted ? 'weighted, ' : ''}${trains ? 'trained' : 'frozen'} head`, () => {
      const before = liveTensors().tensors;
      scope(() => {
        const [hidden, weight] = [hiddenOf(), ops.randn([CLASSES, SIZE])];
        weight.requiresGrad = trains;
        const weights = weighted ? Float64Array.from({ length: SUPERVISED }, (_, i) => (i % 3) - 1) : undefined;
        const [losses, gradX, gradWeight] = whole(hidden, weight, weights);
        const result = lossAndGradient(hidden, LABELS, headOf(weight, trains), {
          scale: 0.5,
          needsHidden: true,
          ...(weights && { weights }),
        });
        const sum = numbers(losses).reduce((all, loss) => all + loss, 0);
        expectNear(result.sum.item(), sum, roundings(8));
        expectNear(numbers(result.gradHidden!), numbers(gradX), GRADIENT);
        expect([...result.gradients.keys()]).toEqual(trains ? ['lm_head.weight'] : []);
        if (trains) {
          const slack = ops.amax(ops.abs(ops.sub(result.gradients.get('lm_head.weight')!, gradWeight)), [0, 1]).item();
          expect(slack).toBeLessThanOrEqual(GRADIENT * ops.amax(ops.abs(gradWeight), [0, 1]).item());
        }
      });
      expect(liveTensors().tensors).toBe(before);
    });
  }

  it('without gradients: the sum, and answer by answer', () => {
    const before = liveTensors().tensors;
    scope(() => {
      const [hidden, weight] = [hiddenOf(), ops.randn([CLASSES, SIZE])];
      const losses = numbers(whole(hidden, weight, undefined)[0]);
      const total = (from: number, to: number): number => losses.slice(from, to).reduce((all, loss) => all + loss, 0);
      const { sum, count } = lossSum(hidden, LABELS, headOf(weight, false));
      expectNear([sum, count], [total(0, POSITIONS), SUPERVISED], roundings(8));
      const found = stretchLogProbs(hidden, LABELS, [150, 160, POSITIONS], headOf(weight, false));
      expectNear([...found.sums], [-total(0, 150), -total(150, 160), -total(160, POSITIONS)], roundings(8));
      expect([...found.counts]).toEqual([120, 8, 192]);
      expect(found.stretches).toHaveLength(SUPERVISED);
    });
    expect(liveTensors().tensors).toBe(before);
  });

  it('where nothing is supervised: zero, and no gradient', () => {
    scope(() => {
      const [hidden, weight] = [hiddenOf(), ops.randn([40, SIZE])];
      const nothing = new Int32Array(POSITIONS).fill(-100);
      const result = lossAndGradient(hidden, nothing, headOf(weight, false), { scale: 1, needsHidden: true });
      expect([result.sum.item(), result.gradHidden, result.gradients.size]).toEqual([0, null, 0]);
      expect(lossSum(hidden, nothing, headOf(weight, false))).toEqual({ sum: 0, count: 0 });
    });
  });

  // Sizes alone: nothing is computed on the meta device.
  it.each(['cpu', 'cuda'] as const)('holds 192 MiB of logits at most, and no copy of them: %s', (stand) => {
    countMetaBytes(stand);
    try {
      scope(() => {
        const [positions, size, classes] = [2048, 64, 151_666];
        const bf16 = { device: 'meta', dtype: 'bfloat16' } as const;
        const hidden = ops.zeros([1, positions, size], bf16);
        const weight = ops.zeros([classes, size], bf16);
        const labels = new Int32Array(positions).fill(7);
        const before = metaBytes().inUse;
        resetMetaPeak();
        lossAndGradient(hidden, labels, headOf(weight, false), { scale: 1, needsHidden: true });
        const most = metaBytes().peak - before;
        expect(most).toBeGreaterThan(140 * 2 ** 20);
        expect(most).toBeLessThan((stand === 'cpu' ? 194 : 270) * 2 ** 20);
      });
    } finally {
      countMetaBytes('cuda');
    }
  });
});
