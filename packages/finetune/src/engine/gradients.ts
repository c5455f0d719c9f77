/**
 * Where the gradients of a backward pass go. Block by block: into a sum over micro-batches, to be clipped and used
 * together, or at once into an update of the block's parameters, so the gradients of the whole model never exist (LOMO,
 * Lv et al., 2023, with AdamW).
 */
import type { Plan, PlanNode } from '@minicpm-finetune/minicpm-v';
import { fromTypedArray, keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { emptySum } from './loss.js';
import { clipOnDevice, normOf, type Optimizer } from './optimizer.js';

export interface GradientReceiver {
  /** How gradients are used, in a word. */
  readonly does: 'sum' | 'update';
  /** A micro-batch's forward pass begins. */
  begin(plan: Plan): void;
  /** Gradients of a block's parameters, newest block first; null: of the head, before all others. Whoever receives them owns them. */
  add(gradients: ReadonlyMap<string, Tensor>, node: PlanNode | null): void;
}

/** Rows by parameter: the gradients of these parameters are of those rows alone. */
export type Rows = ReadonlyMap<string, BigInt64Array>;

/** Gradients of one optimizer step, summed over its micro-batches. */
export class GradientSum implements GradientReceiver {
  readonly does = 'sum';
  readonly gradients = new Map<string, Tensor>();
  readonly rows = new Map<string, BigInt64Array>();

  readonly #microBatches: number;

  constructor(microBatches: number) {
    this.#microBatches = microBatches;
  }

  begin(): void {}

  add(incoming: ReadonlyMap<string, Tensor>, node: PlanNode | null): void {
    noGrad(() => {
      for (const [name, gradient] of incoming) {
        const before = this.gradients.get(name);
        if (before === undefined) {
          this.gradients.set(name, keep(this.#summable(gradient)));
          if (node?.rows) this.rows.set(name, node.rows);
        } else if (node?.rows) this.#addRows(name, before, gradient, node.rows);
        else ops.add_(before, gradient);
      }
    });
  }

  /** Two micro-batches have rows in common, and others. */
  #addRows(name: string, before: Tensor, gradient: Tensor, rows: BigInt64Array): void {
    const own = this.rows.get(name)!;
    const union = BigInt64Array.from(new Set([...own, ...rows])).sort();
    const sum = scope(() => {
      const all = denseRows(before, placesOf(own, union), union.length);
      return keep(ops.indexAdd_(all, 0, indexOf(placesOf(rows, union), all), ops.to(gradient, all.dtype)));
    });
    before.dispose();
    this.gradients.set(name, sum);
    this.rows.set(name, union);
  }

  /** Several micro-batches are summed in float32: small contributions would drown in a smaller type. */
  #summable(gradient: Tensor): Tensor {
    return this.#microBatches > 1 && gradient.dtype !== 'float32' ? ops.to(gradient, 'float32') : gradient;
  }

  dispose(): void {
    for (const gradient of this.gradients.values()) gradient.dispose();
    this.gradients.clear();
    this.rows.clear();
  }
}

/** The index of each of `rows` in `all`, both ascending. */
function placesOf(rows: BigInt64Array, all: BigInt64Array): BigInt64Array {
  let at = 0;
  return rows.map((row) => {
    while (all[at] !== row) at++;
    return BigInt(at);
  });
}

const indexOf = (rows: BigInt64Array, like: Tensor): Tensor =>
  fromTypedArray(rows, [rows.length], 'int64', like.device);

/** A whole table of `count` rows, zero but for `rows`, whose values (R, …) are given. */
export function denseRows(values: Tensor, rows: BigInt64Array, count: number): Tensor {
  return scope(() => {
    const table = ops.zeros([count, ...values.shape.slice(1)], { dtype: values.dtype, device: values.device });
    return ops.indexCopy_(table, 0, indexOf(rows, values), values);
  });
}

/**
 * Updates parameters as soon as their gradients are complete, which is when the first block of the plan that reads them has had its backward
 * pass: a resampler that several groups of pictures share, or an embedding table that is the head, too, wait for it. The norm is clipped
 * over what is updated together: a block. A gradient that is not finite ends the updates of the step; those before it stay. Norms stay on the
 * device, which decides itself whether it updates: only before a table whose rows are updated is the norm so far waited for.
 */
export class FusedUpdate implements GradientReceiver {
  readonly does = 'update';
  /** By parameter, the last of its blocks to have a backward pass. */
  readonly #completes = new Map<string, PlanNode>();
  readonly #waiting = new Map<string, Tensor>();
  /** Squared norm over all gradients so far, before clipping: a scalar on the device. Not finite: no more updates. */
  readonly squares: Tensor;

  readonly #optimizer: Optimizer;
  readonly #multiplier: number;
  readonly #maxGradNorm: number;

  constructor(optimizer: Optimizer, multiplier: number, maxGradNorm: number) {
    this.#optimizer = optimizer;
    this.#multiplier = multiplier;
    this.#maxGradNorm = maxGradNorm;
    const [first] = optimizer.parameters.values();
    this.squares = keep(emptySum(first?.data.device ?? 'cpu'));
  }

  begin(plan: Plan): void {
    for (const node of plan)
      for (const [name, { requiresGrad }] of node.parameters)
        if (requiresGrad && !this.#completes.has(name)) this.#completes.set(name, node);
  }

  add(gradients: ReadonlyMap<string, Tensor>, node: PlanNode | null): void {
    for (const [name, gradient] of gradients) {
      const before = this.#waiting.get(name);
      if (before !== undefined) {
        noGrad(() => ops.add_(before, gradient));
        gradient.dispose();
      } else this.#waiting.set(name, keep(gradient));
    }
    this.#update((name) => (this.#completes.get(name) ?? null) === node, node?.rows);
  }

  /** The backward pass is over: what still waits is complete. */
  finish(): void {
    this.#update(() => true);
  }

  /** `rows`: the gradients are of these rows of their parameter. */
  #update(isComplete: (name: string) => boolean, rows?: BigInt64Array): void {
    const complete = new Map([...this.#waiting].filter(([name]) => isComplete(name)));
    if (complete.size === 0) return;
    noGrad(() => scope(() => this.#use(complete, rows)));
    for (const [name, gradient] of complete) {
      gradient.dispose();
      this.#waiting.delete(name);
    }
  }

  #use(gradients: ReadonlyMap<string, Tensor>, rows?: BigInt64Array): void {
    const norm = ops.to(normOf(gradients), this.squares.dtype);
    ops.add_(this.squares, ops.mul(norm, norm));
    if (rows && !Number.isFinite(this.squares.item())) return;
    clipOnDevice(gradients, norm, this.#maxGradNorm);
    const some: Rows = new Map(rows ? [...gradients.keys()].map((name) => [name, rows]) : []);
    const skip = rows ? null : ops.to(ops.logicalNot(ops.isfinite(this.squares)), 'float32');
    this.#optimizer.step(gradients, this.#multiplier, some, skip);
  }

  dispose(): void {
    for (const gradient of this.#waiting.values()) gradient.dispose();
    this.#waiting.clear();
    this.squares.dispose();
  }
}
