/**
 * AdamW in pure bfloat16 with stochastic rounding. Weights and moments are bfloat16 without float32 copies: each update
 * is computed in float32 and rounded up or down with the probability that makes the mean exact. What rounding to the
 * nearest would lose at every step then arrives on average.
 *
 * Stochastic rounding: Gupta et al., 2015; for bfloat16 training: Zamirai et al., 2020. The random bits follow from the run's seed, the step and
 * the number's place in its parameter: a resumed run rounds as an uninterrupted one, and several processes as one. Not here: master weights
 * (optimizer.ts), the kernel (packages/torch).
 */
import { strict as assert } from 'node:assert';
import {
  AdamW,
  type AdamWUpdate,
  manualSeed,
  noGrad,
  ops,
  type ParamGroup,
  scope,
  seedOf,
  type Tensor,
} from '@minicpm-finetune/torch';

/** Elements that are worked on at once, which bounds their float32 copies (some 12 MB) and leaves the threads enough to do. */
const CHUNK = 1 << 20;

/** AdamW whose parameters and moments are bfloat16. Gradients may be bfloat16 or float32. */
export class StochasticAdamW extends AdamW {
  protected override update(
    group: ParamGroup,
    updates: readonly AdamWUpdate[],
    { skip = null, seed = 0 }: { skip?: Tensor | null; seed?: number },
  ): void {
    for (const update of updates) {
      const { name, parameter, gradient, state } = update;
      assert.equal(parameter.dtype, 'bfloat16', 'stochastic rounding is for bfloat16 parameters');
      ops.addScalar_(state.step, 1);
      if (skip !== null) ops.add_(state.step, skip, { alpha: -1 });
      const [g, ...kept] = [ops.contiguous(gradient), parameter, state.expAvg, state.expAvgSq].map((x) =>
        ops.view(x, [-1]),
      );
      const width = update.rows ? parameter.numel / parameter.size(0) : 1;
      const step = Math.max(1, Math.floor(CHUNK / width)) * width; // whole rows
      for (let start = 0; start < parameter.numel; start += step) {
        const length = Math.min(step, parameter.numel - start);
        const part = (x: Tensor): Tensor => ops.narrow(x, 0, start, length);
        const rows = update.rows ? ops.narrow(update.rows, 0, start / width, length / width) : null;
        const place = { seed: seedOf(seed, name), start: update.start + (rows ? 0 : start), rows, width };
        scope(() => this.#updateChunk(kept.map(part), part(g!), { step: state.step, group, skip, place }));
      }
    }
  }

  /** `kept`: parameter and both moments. All tensors have one dimension. What is skipped is a bfloat16 number already: rounding leaves it. */
  #updateChunk(kept: readonly Tensor[], gradient: Tensor, { step, group, skip, place }: Chunk): void {
    const { beta1, beta2, eps } = this.options;
    const [parameter, expAvg, expAvgSq] = kept.map((x) => ops.to(x, 'float32'));
    const settings = { lr: group.lr, beta1, beta2, weight_decay: group.weightDecay, eps };
    const flags = { amsgrad: false, maximize: false, ...(skip === null ? {} : { found_inf: skip }) };
    const g = ops.to(gradient, 'float32');
    ops.fusedAdamw_([parameter!], [g], [expAvg!], [expAvgSq!], [], [step], { ...settings, ...flags });
    [parameter!, expAvg!, expAvgSq!].forEach((values, i) => {
      roundStochastically_(kept[i]!, values, { ...place, seed: seedOf(place.seed, i) });
    });
  }
}

interface Chunk {
  readonly step: Tensor;
  readonly group: ParamGroup;
  readonly skip: Tensor | null;
  readonly place: Place;
}

/** Where numbers are in their parameter: from `start` on, or, counted from there, in these rows (int64) of `width` numbers each. */
interface Place {
  readonly seed: number;
  readonly start: number;
  readonly rows?: Tensor | null;
  readonly width?: number;
}

/**
 * Rounds float32 `values` to the bfloat16 below or above and writes them to `target` (same shape, bfloat16). 16 random bits are added to
 * those that bfloat16 lacks: the sum carries with the wanted probability, for either sign. On the CPU a number's random bits are a function of
 * the seed and its place; other devices draw them from their generator, seeded by the seed and the first place.
 */
export function roundStochastically_(
  target: Tensor,
  values: Tensor,
  { seed, start, rows = null, width = 0 }: Place,
): void {
  if (target.device !== 'cpu') manualSeed(seedOf(seed, start), target.device);
  noGrad(() => scope(() => ops.roundStochastically_(target, values, seed, start, rows, width)));
}
