/**
 * AdamW with decoupled weight decay (Loshchilov & Hutter, 2019), libtorch's fused kernel: one pass over parameter, gradient and moments.
 *
 * Not here: learning-rate schedules, clipping, which parameters decay (packages/finetune).
 */
import { noGrad } from './autograd.js';
import { ops } from './ops.js';
import { keep, scope } from './scope.js';
import type { Tensor } from './tensor.js';

export interface AdamWOptions {
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
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
}

export class AdamW {
  readonly state = new Map<string, AdamWState>();

  constructor(
    readonly groups: readonly ParamGroup[],
    readonly options: AdamWOptions,
  ) {}

  /** Updates the parameters that have a gradient. Gradients must have their parameter's dtype and shape; they stay the caller's. */
  step(grads: ReadonlyMap<string, Tensor>): void {
    noGrad(() => scope(() => this.update(grads)));
  }

  /** The update itself, inside of a scope and without a graph. */
  protected update(grads: ReadonlyMap<string, Tensor>): void {
    const { beta1, beta2, eps } = this.options;
    for (const group of this.groups) {
      const names = [...group.params.keys()].filter((name) => grads.has(name));
      if (names.length === 0) continue;
      const states = names.map((name) => this.stateOf(name, group.params.get(name)!));
      ops.foreachAddScalar_(
        states.map((s) => s.step),
        1,
      );
      ops.fusedAdamw_(
        names.map((name) => group.params.get(name)!),
        names.map((name) => ops.contiguous(grads.get(name)!)), // the kernel walks through memory, whatever the strides
        states.map((s) => s.expAvg),
        states.map((s) => s.expAvgSq),
        [],
        states.map((s) => s.step),
        { lr: group.lr, beta1, beta2, weight_decay: group.weightDecay, eps, amsgrad: false, maximize: false },
      );
    }
  }

  /** The state of a parameter, made at its first gradient. */
  protected stateOf(name: string, param: Tensor): AdamWState {
    let state = this.state.get(name);
    if (state === undefined) {
      state = scope(() => ({
        expAvg: keep(ops.zerosLike(param)),
        expAvgSq: keep(ops.zerosLike(param)),
        step: keep(ops.zeros([], { dtype: 'float32' })),
      }));
      this.state.set(name, state);
    }
    return state;
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
