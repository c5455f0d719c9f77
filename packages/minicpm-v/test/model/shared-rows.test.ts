/** Sequences that begin with the same tokens: in one row with these once, they give the numbers and gradients of whole ones. */
import type { VersionName } from '@minicpm-finetune/processor';
import { fromTypedArray, grad, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import type { ModelInputs } from '../../src/model/inputs.js';
import { runPlan } from '../../src/model/plan.js';
import { hashed, hashedModel, readReference, relativeDifference } from '../support/reference.js';

const VERSIONS: readonly VersionName[] = ['minicpm-v-2_6', 'minicpm-v-4', 'minicpm-v-4_5', 'minicpm-v-4_6'];
const SHARED = 5;
const OWN = [4, 7] as const;

const int64 = (values: readonly number[]): Tensor =>
  fromTypedArray(BigInt64Array.from(values, BigInt), [1, values.length]);
const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

describe.each(VERSIONS)('%s', (version) => {
  it('has the same hidden states and gradients', () => {
    const model = hashedModel(readReference(version));
    scope(() => {
      const token = (u: number): number => Math.floor((u + 0.5) * model.config.llm.vocabSize);
      const prompt = Array.from(hashed('prompt', SHARED), token);
      const tails = OWN.map((length, i) => Array.from(hashed(`tail.${i}`, length), token));
      const lengths = OWN.map((own) => SHARED + own);
      const positions = lengths.flatMap((length) => range(0, length));
      const media = { pictures: [[]], imageBounds: [[]] };
      const whole: ModelInputs = {
        inputIds: int64(tails.flatMap((tail) => [...prompt, ...tail])),
        positionIds: int64(positions),
        lengths,
        ...media,
      };
      const row = [
        ...range(0, SHARED + OWN[0]),
        ...range(0, SHARED),
        ...range(SHARED + OWN[0], SHARED + OWN[0] + OWN[1]),
      ];
      const shared: ModelInputs = {
        ...whole,
        inputIds: int64([...prompt, ...tails[0]!, ...tails[1]!]),
        rows: BigInt64Array.from(row, BigInt),
      };
      const index = fromTypedArray(BigInt64Array.from(row, BigInt), [row.length], 'int64');
      const layer = model.llm.model.layers[0]!;
      const weight = [...layer.namedParameters()].find(
        ([name]) => name.endsWith('proj.weight') || name.includes('in_proj'),
      )![1];
      weight.data.requiresGrad = true;
      const [a, b] = [whole, shared].map((inputs) => runPlan(model.plan(inputs, { train: false }))) as [Tensor, Tensor];
      const spread = ops.indexSelect(b, 1, index);
      expect(relativeDifference(spread, a)).toBeLessThan(1e-5);
      const probe = fromTypedArray(Float32Array.from(hashed('gradient', a.numel)), a.shape);
      const [first, second] = [a, spread].map((x) => grad([ops.sumAll(ops.mul(x, probe))], [weight.data])[0]!) as [
        Tensor,
        Tensor,
      ];
      noGrad(() => expect(relativeDifference(second, first)).toBeLessThan(1e-5));
    });
    model.dispose();
  });
});
