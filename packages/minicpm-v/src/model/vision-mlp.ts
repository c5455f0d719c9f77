/** The feed-forward part of a layer of both vision towers. Parameter names are the checkpoints'. */
import { Linear, Module, ops, type Tensor } from '@minicpm-finetune/torch';

export class VisionMlp extends Module {
  readonly fc1: Linear;
  readonly fc2: Linear;

  /** @param gelu computed exactly (`none`), or by its `tanh` approximation. */
  constructor(
    dim: number,
    hidden: number,
    readonly gelu: 'none' | 'tanh',
  ) {
    super();
    this.fc1 = this.child('fc1', new Linear(dim, hidden, { bias: true }));
    this.fc2 = this.child('fc2', new Linear(hidden, dim, { bias: true }));
  }

  /** x (N, n, D) */
  forward(x: Tensor): Tensor {
    return this.fc2.forward(ops.gelu(this.fc1.forward(x), { approximate: this.gelu }));
  }
}
