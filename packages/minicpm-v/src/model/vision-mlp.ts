/** The feed-forward part of a layer of both vision towers. Parameter names are the checkpoints'. */
import { isCpu, type LayerNorm, Linear, Module, ops, type Tensor } from '@minicpm-finetune/torch';

const isPlain = ({ adapter, weight }: Linear): boolean => adapter === undefined && weight.compact === undefined;

export class VisionMlp extends Module {
  readonly fc1: Linear;
  readonly fc2: Linear;

  readonly gelu: 'none' | 'tanh';

  /** @param gelu computed exactly (`none`), or by its `tanh` approximation. */
  constructor(dim: number, hidden: number, gelu: 'none' | 'tanh') {
    super();
    this.gelu = gelu;
    this.fc1 = this.child('fc1', new Linear(dim, hidden, { bias: true }));
    this.fc2 = this.child('fc2', new Linear(hidden, dim, { bias: true }));
  }

  /**
   * x + fc2(gelu(fc1(norm(x)))), x (N, n, D). On devices other than the CPU this is one operator that keeps less for the gradient; with an
   * adapter on a layer, or a compact weight, layer by layer.
   */
  residual(x: Tensor, norm: LayerNorm): Tensor {
    const { fc1, fc2, gelu } = this;
    if (isCpu(x.device) || !isPlain(fc1) || !isPlain(fc2))
      return ops.add(x, fc2.forward(ops.gelu(fc1.forward(norm.forward(x)), { approximate: gelu })));
    const [w1, b1, w2, b2] = [fc1.weight, fc1.bias!, fc2.weight, fc2.bias!].map(({ data }) => data);
    return ops.geluMlp(x, norm.weight.data, norm.bias.data, w1!, b1!, w2!, b2!, norm.eps, gelu === 'tanh');
  }
}
