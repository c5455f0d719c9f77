/**
 * AdamW by libtorch's fused kernel. Decoupled weight decay (Loshchilov & Hutter, 2019); one pass over parameter,
 * gradient and moments.
 *
 * Not here: learning-rate schedules, clipping, which parameters decay (packages/finetune).
 */
import { noGrad } from './autograd.js';
import { fromTypedArray } from './create.js';
import type { DType } from './dtype.js';
import { ops } from './ops.js';
import { keep, scope } from './scope.js';
import type { Tensor } from './tensor.js';

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Where tensors begin in the parameters that they are parts of, in numbers: 0 unless given. */
  readonly starts?: ReadonlyMap<string, number>;
  /** Makes the zeros that moments begin with, outside of every scope; on the parameter's device unless given. */
  readonly zeros?: (shape: readonly number[], dtype: DType) => Tensor;
}

/** What one step depends on beside the gradients. */
export interface AdamWStep {
  /**
   * Parameters that are tables of which only these rows (each once) have a gradient: the gradient has these rows alone, moments are kept only
   * of rows that ever had one, and the result is that of a whole gradient, zero elsewhere.
   */
  readonly rows?: ReadonlyMap<string, BigInt64Array> | undefined;
  /**
   * A float32 scalar on the parameters' device; 1: parameters, moments and steps stay as they are, 0: they are updated. So a decision that is
   * made on the device is not waited for. Not for a parameter in `rows`.
   */
  readonly skip?: Tensor | null;
  /** For updates that draw random numbers. */
  readonly seed?: number;
}

/** A set of parameters with settings of their own. */
export interface ParamGroup {
  readonly name: string;
  readonly params: ReadonlyMap<string, Tensor>;
  lr: number;
  readonly weightDecay: number;
}

/** The state of one parameter: both moments in the parameter's shape, and the steps it has seen (float32 scalar). */
export interface AdamWState {
  readonly expAvg: Tensor;
  readonly expAvgSq: Tensor;
  readonly step: Tensor;
  /** The rows of the parameter that have moments, those that ever had a gradient; absent: all. */
  readonly rows?: BigInt64Array;
}

/** The tensors that one parameter's update reads and writes. */
export interface AdamWUpdate {
  readonly name: string;
  /** Where the parameter's tensor begins in it, in numbers. */
  readonly start: number;
  /** The rows (int64) of the tensor that these are; absent: all. */
  readonly rows?: Tensor;
  readonly parameter: Tensor;
  readonly gradient: Tensor;
  readonly state: AdamWState;
}

/** The kernel would read past the end of a smaller one. */
function checkShape(name: string, gradient: Tensor, expected: readonly number[]): void {
  if (gradient.shape.join() !== expected.join())
    throw new RangeError(
      `${name}: Expected a gradient of [${expected.join(', ')}] but received [${gradient.shape.join(', ')}]`,
    );
}

export class AdamW {
  readonly state = new Map<string, AdamWState>();
  /** For parameters with moments of some rows: the index of a row in the moments. */
  readonly #places = new Map<string, Map<bigint, number>>();

  readonly groups: readonly ParamGroup[];
  readonly options: AdamWOptions;

  constructor(groups: readonly ParamGroup[], options: AdamWOptions) {
    this.groups = groups;
    this.options = options;
  }

  /** Updates the parameters that have a gradient. Gradients must have their parameter's dtype and shape; they stay the caller's. */
  step(grads: ReadonlyMap<string, Tensor>, settings: AdamWStep = {}): void {
    const rows = settings.rows ?? new Map<string, BigInt64Array>();
    noGrad(() =>
      scope(() => {
        for (const group of this.groups) {
          const names = [...group.params.keys()].filter((name) => grads.has(name));
          const whole = names.filter((name) => !rows.has(name));
          const updates = whole.map((name) => {
            const [parameter, gradient] = [group.params.get(name)!, grads.get(name)!];
            checkShape(name, gradient, parameter.shape);
            return { name, start: this.#startOf(name), parameter, gradient, state: this.#stateOf(name, parameter) };
          });
          if (updates.length > 0) this.update(group, updates, settings);
          for (const name of names.filter((other) => rows.has(other)))
            scope(() => this.#updateRows(group, name, grads.get(name)!, rows.get(name)!, settings));
        }
      }),
    );
  }

  #startOf(name: string): number {
    return this.options.starts?.get(name) ?? 0;
  }

  /** The update itself, inside of a scope and without a graph. */
  protected update(group: ParamGroup, updates: readonly AdamWUpdate[], { skip = null }: AdamWStep): void {
    const { beta1, beta2, eps } = this.options;
    const steps = updates.map(({ state }) => state.step);
    ops.foreachAddScalar_(steps, 1);
    if (skip !== null) ops.foreachAddTensor_(steps, skip, { alpha: -1 });
    ops.fusedAdamw_(
      updates.map(({ parameter }) => parameter),
      // the kernel walks through memory, whatever the strides
      updates.map(({ gradient }) => (gradient.isContiguous ? gradient : ops.contiguous(gradient))),
      updates.map(({ state }) => state.expAvg),
      updates.map(({ state }) => state.expAvgSq),
      [],
      steps,
      {
        ...{ lr: group.lr, beta1, beta2, weight_decay: group.weightDecay, eps, amsgrad: false, maximize: false },
        ...(skip === null ? {} : { found_inf: skip }),
      },
    );
  }

  /**
   * Only rows that ever had a gradient are updated; the other rows only decay. In bfloat16 a decay below 2^-9 would round
   * to nothing, as it does in a whole update, so it is skipped.
   */
  #updateRows(group: ParamGroup, name: string, gradient: Tensor, rows: BigInt64Array, { seed }: AdamWStep): void {
    const parameter = group.params.get(name)!;
    checkShape(name, gradient, [rows.length, ...parameter.shape.slice(1)]);
    const places = this.#grow(name, parameter, rows);
    const state = this.state.get(name)!;
    const index = fromTypedArray(state.rows!, [state.rows!.length], 'int64', parameter.device);
    const own = BigInt64Array.from(rows, (row) => BigInt(places.get(row)!));
    const target = fromTypedArray(own, [own.length], 'int64', parameter.device);
    const seen = ops.indexSelect(parameter, 0, index);
    const none = ops.zeros(seen.shape, { dtype: gradient.dtype, device: gradient.device });
    const whole = ops.indexCopy(none, 0, target, gradient);
    const update = { name, start: this.#startOf(name), parameter: seen, gradient: whole, state, rows: index };
    this.update(group, [update], { seed: seed ?? 0 });
    const decay = group.lr * group.weightDecay;
    if (decay !== 0 && !(parameter.dtype === 'bfloat16' && decay < 2 ** -9))
      ops.add_(parameter, parameter, { alpha: -decay });
    ops.indexCopy_(parameter, 0, index, seen);
  }

  /** Makes room in the moments for rows that had no gradient before. Returns where each row is. */
  #grow(name: string, parameter: Tensor, rows: BigInt64Array): Map<bigint, number> {
    const before = this.state.get(name);
    const known =
      before === undefined ? [] : (before.rows ?? Array.from({ length: parameter.size(0) }, (_, i) => BigInt(i)));
    let places = this.#places.get(name);
    if (places === undefined || places.size !== known.length) places = new Map(Array.from(known, (row, i) => [row, i]));
    this.#places.set(name, places);
    const fresh = rows.filter((row) => !places.has(row));
    for (const row of fresh) places.set(row, places.size);
    if (before?.rows !== undefined && fresh.length === 0) return places;
    const shape = [known.length + fresh.length, ...parameter.shape.slice(1)];
    const grown = (moment: Tensor | undefined): Tensor => {
      const all = this.zeros(shape, parameter);
      if (moment) ops.copy_(ops.narrow(all, 0, 0, known.length), moment);
      return all;
    };
    this.state.set(name, {
      expAvg: grown(before?.expAvg),
      expAvgSq: grown(before?.expAvgSq),
      step: before?.step ?? keep(ops.zeros([], { dtype: 'float32', device: parameter.device })),
      rows: BigInt64Array.from([...known, ...fresh]),
    });
    before?.expAvg.dispose();
    before?.expAvgSq.dispose();
    return places;
  }

  /** The state of a parameter, made at its first gradient. */
  #stateOf(name: string, param: Tensor): AdamWState {
    let state = this.state.get(name);
    if (state === undefined) {
      state = scope(() => ({
        expAvg: this.zeros(param.shape, param),
        expAvgSq: this.zeros(param.shape, param),
        step: keep(ops.zeros([], { dtype: 'float32', device: param.device })),
      }));
      this.state.set(name, state);
    }
    return state;
  }

  /** Zeros for a moment of a parameter, outside of every scope. */
  zeros(shape: readonly number[], { dtype, device }: Tensor): Tensor {
    return this.options.zeros?.(shape, dtype) ?? scope(() => keep(ops.zeros(shape, { dtype, device })));
  }

  /** Frees the moments. */
  dispose(): void {
    for (const { expAvg, expAvgSq, step } of this.state.values()) {
      expAvg.dispose();
      expAvgSq.dispose();
      step.dispose();
    }
    this.state.clear();
  }
}
