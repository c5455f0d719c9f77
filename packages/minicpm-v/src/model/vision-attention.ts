/** Attention among the patches of a picture. Without mask; parameter names are the checkpoints'. */
import { Linear, Module, ops, type Tensor } from '@minicpm-finetune/torch';

export class VisionAttention extends Module {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly outProj: Linear;

  readonly heads: number;

  constructor(dim: number, heads: number) {
    super();
    this.heads = heads;
    this.kProj = this.child('k_proj', new Linear(dim, dim, { bias: true }));
    this.vProj = this.child('v_proj', new Linear(dim, dim, { bias: true }));
    this.qProj = this.child('q_proj', new Linear(dim, dim, { bias: true }));
    this.outProj = this.child('out_proj', new Linear(dim, dim, { bias: true }));
  }

  /** x (N, n, D); `lengths` of pictures that lie one after the other in one row */
  forward(x: Tensor, lengths?: readonly number[]): Tensor {
    const [N, n, D] = x.shape as [number, number, number];
    const split = (y: Tensor): Tensor => ops.transpose(ops.reshape(y, [N, n, this.heads, D / this.heads]), 1, 2); // (N, H, n, D/H)
    const [q, k, v] = [this.qProj, this.kProj, this.vProj].map((proj) => split(proj.forward(x)));
    const y = ops.attention(q!, k!, v!, { lengths });
    return this.outProj.forward(ops.reshape(ops.transpose(y, 1, 2), [N, n, D]));
  }
}
