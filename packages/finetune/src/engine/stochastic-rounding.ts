/**
 * AdamW in pure bfloat16 with stochastic rounding. Weights and moments are bfloat16 without float32 copies: each update
 * is computed in float32 and rounded up or down with the probability that makes the mean exact. What rounding to the
 * nearest would lose at every step then arrives on average.
 *
 * Stochastic rounding: Gupta et al., 2015; for bfloat16 training: Zamirai et al., 2020. The random bits are libtorch's generator's, so a
 * resumed run rounds as an uninterrupted one. Not here: master weights (optimizer.ts), the kernel (packages/torch).
 */
import { strict as assert } from 'node:assert';
import { AdamW, type AdamWUpdate, noGrad, ops, type ParamGroup, scope, type Tensor } from '@minicpm-finetune/torch';

/** Elements that are worked on at once, which bounds their float32 copies (some 50 MB) and leaves the threads enough to do. */
const CHUNK = 1 << 20;
/** The high 16 bits of a float32: a bfloat16. */
const HIGH = -0x10000;
const LOW = 0xffff;

/**
 * Rounds float32 `values` to the bfloat16 below or above and writes them to `target` (same shape, bfloat16). `noise` has a random integer
 * for each value (int32, uniform in 0 to 65535): the sum with the bits that bfloat16 lacks carries with the wanted probability, for either sign.
 */
export function roundStochastically_(target: Tensor, values: Tensor, noise: Tensor): void {
  noGrad(() =>
    scope(() => {
      const bits = ops.add(ops.viewDtype(values, 'int32'), noise);
      ops.copy_(target, ops.viewDtype(ops.bitwiseAndScalar(bits, HIGH), 'float32'));
    }),
  );
}

/** Noise for three tensors of `count` values each, from one 48-bit draw per value. */
function drawNoise(count: number, device: string): Tensor[] {
  const quarters = ops.viewDtype(ops.randint(0, 2 ** 48, [count, 1], { dtype: 'int64', device }), 'int16'); // (count, 4)
  return [0, 1, 2].map((k) => ops.bitwiseAndScalar(ops.to(ops.select(quarters, 1, k), 'int32'), LOW));
}

/** AdamW whose parameters and moments are bfloat16. Gradients may be bfloat16 or float32. */
export class StochasticAdamW extends AdamW {
  protected override update(group: ParamGroup, updates: readonly AdamWUpdate[], skip: Tensor | null): void {
    for (const { parameter, gradient, state } of updates) {
      assert.equal(parameter.dtype, 'bfloat16', 'stochastic rounding is for bfloat16 parameters');
      ops.addScalar_(state.step, 1);
      if (skip !== null) ops.add_(state.step, skip, { alpha: -1 });
      const [g, ...kept] = [ops.contiguous(gradient), parameter, state.expAvg, state.expAvgSq].map((x) =>
        ops.view(x, [-1]),
      );
      for (let start = 0; start < parameter.numel; start += CHUNK) {
        const length = Math.min(CHUNK, parameter.numel - start);
        const part = (x: Tensor): Tensor => ops.narrow(x, 0, start, length);
        scope(() => this.#updateChunk(kept.map(part), part(g!), state.step, group, skip));
      }
    }
  }

  /** `kept`: parameter and both moments. All tensors have one dimension. What is skipped is a bfloat16 number already: rounding leaves it. */
  #updateChunk(kept: readonly Tensor[], gradient: Tensor, step: Tensor, group: ParamGroup, skip: Tensor | null): void {
    const { beta1, beta2, eps } = this.options;
    const [parameter, expAvg, expAvgSq] = kept.map((x) => ops.to(x, 'float32'));
    const settings = { lr: group.lr, beta1, beta2, weight_decay: group.weightDecay, eps };
    const flags = { amsgrad: false, maximize: false, ...(skip === null ? {} : { found_inf: skip }) };
    const g = ops.to(gradient, 'float32');
    ops.fusedAdamw_([parameter!], [g], [expAvg!], [expAvgSq!], [], [step], { ...settings, ...flags });
    const noise = drawNoise(gradient.numel, gradient.device);
    [parameter!, expAvg!, expAvgSq!].forEach((values, i) => {
      roundStochastically_(kept[i]!, values, noise[i]!);
    });
  }
}
