/**
 * Where the gradients of a backward pass go. Block by block: into a sum over micro-batches, to be clipped and used
 * together, or at once into an update of the block's parameters, so the gradients of the whole model never exist (LOMO,
 * Lv et al., 2023, with AdamW).
 */
import type { Plan, PlanNode } from '@minicpm-finetune/minicpm-v';
import { fromTypedArray, keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { clipOnDevice, squaresOf } from './clip.js';
import { emptySum } from './loss.js';
import type { Optimizer, StepSettings } from './optimizer.js';

export interface GradientReceiver {
  /** How gradients are used, in a word. */
  readonly does: 'sum' | 'update';
  /** A micro-batch's forward pass begins. `head`: the parameters that the head trains. */
  begin(plan: Plan, head: Iterable<string>): void;
  /** Gradients of a block's parameters, newest block first; null: of the head, before all others. Whoever receives them owns them. */
  add(gradients: ReadonlyMap<string, Tensor>, node: PlanNode | null): void;
  /** The micro-batch's backward pass is over. */
  end(): void;
  dispose(): void;
}

/** Rows by parameter: the gradients of these parameters are of those rows alone. */
export type Rows = ReadonlyMap<string, BigInt64Array>;

/**
 * Parameters that several blocks of a micro-batch read: a resampler for pictures of several shapes, an embedding table that is the head as
 * well. Their gradients are summed in float32 until the last of the blocks has had its backward pass, which is the first one in the plan.
 */
export class Shared {
  /** By parameter, the last of its blocks to have a backward pass. */
  #completes = new Map<string, PlanNode>();
  /** Read more than once. */
  #shared = new Set<string>();
  readonly #sums = new Map<string, Tensor>();

  begin(plan: Plan, head: Iterable<string>): void {
    this.#completes = new Map();
    this.#shared = new Set();
    const seen = new Set(head);
    for (const node of plan)
      for (const [name, { requiresGrad }] of node.parameters) {
        if (!requiresGrad) continue;
        if (seen.has(name)) this.#shared.add(name);
        seen.add(name);
        if (!this.#completes.has(name)) this.#completes.set(name, node);
      }
  }

  /** Takes a block's gradients; returns those that are complete now. They are the caller's. */
  take(gradients: ReadonlyMap<string, Tensor>, node: PlanNode | null): Map<string, Tensor> {
    const complete = new Map<string, Tensor>();
    for (const [name, gradient] of gradients) {
      if (!this.#shared.has(name)) complete.set(name, keep(gradient));
      else this.#add(name, gradient);
    }
    for (const name of this.#sums.keys()) if (this.#completes.get(name) === node) complete.set(name, this.#pop(name));
    return complete;
  }

  #add(name: string, gradient: Tensor): void {
    const sum = this.#sums.get(name);
    noGrad(() => {
      if (sum !== undefined) ops.add_(sum, gradient);
      else this.#sums.set(name, keep(gradient.dtype === 'float32' ? gradient : ops.to(gradient, 'float32')));
    });
    if (this.#sums.get(name) !== gradient) gradient.dispose();
  }

  #pop(name: string): Tensor {
    const sum = this.#sums.get(name)!;
    this.#sums.delete(name);
    return sum;
  }

  /** What is left when the backward pass is over: blocks without a gradient never complete theirs. `names`: of these alone. */
  rest(names: Iterable<string> = [...this.#sums.keys()]): Map<string, Tensor> {
    const left = [...names].filter((name) => this.#sums.has(name));
    return new Map(left.map((name) => [name, this.#pop(name)]));
  }

  dispose(): void {
    for (const sum of this.#sums.values()) sum.dispose();
    this.#sums.clear();
  }
}

/** Gradients of one optimizer step, summed over its micro-batches. */
export class GradientSum implements GradientReceiver {
  readonly does = 'sum';
  readonly gradients = new Map<string, Tensor>();
  readonly rows = new Map<string, BigInt64Array>();

  readonly #shared = new Shared();
  readonly #microBatches: number;

  constructor(microBatches: number) {
    this.#microBatches = microBatches;
  }

  begin(plan: Plan, head: Iterable<string>): void {
    this.#shared.begin(plan, head);
  }

  add(incoming: ReadonlyMap<string, Tensor>, node: PlanNode | null): void {
    this.#sum(this.#shared.take(incoming, node), node?.rows);
  }

  end(): void {
    this.#sum(this.#shared.rest());
  }

  #sum(complete: ReadonlyMap<string, Tensor>, rows?: BigInt64Array): void {
    noGrad(() => {
      for (const [name, gradient] of complete) {
        const before = this.gradients.get(name);
        if (before === undefined) {
          this.gradients.set(name, this.#summable(gradient));
          if (rows) this.rows.set(name, rows);
          continue;
        }
        if (rows) this.#addRows(name, before, gradient, rows);
        else ops.add_(before, gradient);
        gradient.dispose();
      }
    });
  }

  #addRows(name: string, before: Tensor, values: Tensor, rows: BigInt64Array): void {
    const sum = addRows({ rows: this.rows.get(name)!, values: before }, { rows, values });
    before.dispose();
    this.gradients.set(name, sum.values);
    this.rows.set(name, sum.rows);
  }

  /** Several micro-batches are summed in float32: small contributions would drown in a smaller type. */
  #summable(gradient: Tensor): Tensor {
    if (this.#microBatches === 1 || gradient.dtype === 'float32') return gradient;
    const sum = scope(() => keep(ops.to(gradient, 'float32')));
    gradient.dispose();
    return sum;
  }

  dispose(): void {
    this.#shared.dispose();
    for (const gradient of this.gradients.values()) gradient.dispose();
    this.gradients.clear();
    this.rows.clear();
  }
}

/** A gradient of rows of a table: values (R, …), float32, of rows in ascending order. */
export interface RowSum {
  readonly rows: BigInt64Array;
  readonly values: Tensor;
}

/** A sum with other rows added to it. Its values are the caller's, outside of every scope. */
export function addRows(sum: RowSum, { rows, values }: RowSum): RowSum {
  const union = BigInt64Array.from(new Set([...sum.rows, ...rows])).sort();
  const added = scope(() => {
    const all = denseRows(sum.values, placesOf(sum.rows, union), union.length);
    return keep(ops.indexAdd_(all, 0, indexOf(placesOf(rows, union), all), ops.to(values, all.dtype)));
  });
  return { rows: union, values: added };
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
 * Updates parameters as soon as their gradients are complete: a resampler that several groups of pictures share, or an embedding table that is
 * the head, too, wait for their last block. The norm is clipped over what is updated together: a block. A gradient that is not finite ends the
 * updates of the step; those before it stay. Norms stay on the device, which decides itself whether it updates: only before a table whose
 * rows are updated is the norm so far waited for.
 */
export class FusedUpdate implements GradientReceiver {
  readonly does = 'update';
  readonly #shared = new Shared();
  /** Squared norm over all gradients so far, before clipping: a scalar on the device. Not finite: no more updates. */
  readonly squares: Tensor;

  readonly #optimizer: Optimizer;
  readonly #update: StepSettings;
  readonly #maxGradNorm: number;

  constructor(optimizer: Optimizer, update: StepSettings, maxGradNorm: number) {
    this.#optimizer = optimizer;
    this.#update = update;
    this.#maxGradNorm = maxGradNorm;
    const [first] = optimizer.parameters.values();
    this.squares = keep(emptySum(first?.data.device ?? 'cpu'));
  }

  begin(plan: Plan, head: Iterable<string>): void {
    this.#shared.begin(plan, head);
  }

  add(gradients: ReadonlyMap<string, Tensor>, node: PlanNode | null): void {
    this.#use(this.#shared.take(gradients, node), node?.rows);
  }

  end(): void {
    this.#use(this.#shared.rest());
  }

  /** `rows`: the gradients are of these rows of their parameter. Frees the gradients. */
  #use(gradients: ReadonlyMap<string, Tensor>, rows?: BigInt64Array): void {
    if (gradients.size === 0) return;
    noGrad(() =>
      scope(() => {
        const squares = ops.to(squaresOf(gradients), this.squares.dtype);
        ops.add_(this.squares, squares);
        if (rows && !Number.isFinite(this.squares.item())) return;
        clipOnDevice(gradients, ops.sqrt(squares), this.#maxGradNorm);
        const some: Rows = new Map(rows ? [...gradients.keys()].map((name) => [name, rows]) : []);
        const skip = rows ? null : ops.to(ops.logicalNot(ops.isfinite(this.squares)), 'float32');
        this.#optimizer.step(gradients, { ...this.#update, rows: some, skip });
      }),
    );
    for (const gradient of gradients.values()) gradient.dispose();
  }

  dispose(): void {
    this.#shared.dispose();
    this.squares.dispose();
  }
}
