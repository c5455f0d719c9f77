/**
 * The merger inside the vision tower: four patches become one. Each window of 2x2 attends among its own, then a
 * feed-forward block makes one row of the four, beside their mean. Every picture has windows of its own grid.
 */
import type { VisionConfig } from '@minicpm-finetune/processor';
import { LayerNorm, Linear, Module, ops, type Tensor } from '@minicpm-finetune/torch';
import type { PictureGroup } from './patches.js';
import { VisionAttention } from './vision-attention.js';
import { WINDOW, windowsOf } from './windows.js';

export class WindowMerger extends Module {
  readonly layerNorm1: LayerNorm;
  readonly selfAttn: VisionAttention;
  readonly preNorm: LayerNorm;
  readonly linear1: Linear;
  readonly linear2: Linear;

  constructor({ hiddenSize, intermediateSize, numHeads, layerNormEps }: VisionConfig) {
    super();
    this.layerNorm1 = this.child('layer_norm1', new LayerNorm(hiddenSize, layerNormEps));
    this.selfAttn = this.child('self_attn', new VisionAttention(hiddenSize, numHeads));
    this.preNorm = this.child('pre_norm', new LayerNorm(WINDOW * hiddenSize, layerNormEps));
    this.linear1 = this.child('linear_1', new Linear(WINDOW * hiddenSize, WINDOW * intermediateSize, { bias: true }));
    this.linear2 = this.child('linear_2', new Linear(WINDOW * intermediateSize, hiddenSize, { bias: true }));
  }

  /** Patches (N, n, D) of a group to (N, n / 4, D), row by row. */
  forward(x: Tensor, group: PictureGroup): Tensor {
    const [N, n, D] = x.shape as [number, number, number];
    const windows = windowsOf(x, group); // (W, 4, D)
    const y = ops.add(windows, this.selfAttn.forward(this.layerNorm1.forward(windows)));
    const joined = ops.reshape(y, [-1, WINDOW * D]);
    const hidden = ops.gelu(this.linear1.forward(this.preNorm.forward(joined)), { approximate: 'tanh' });
    const merged = ops.add(this.linear2.forward(hidden), ops.mean(y, [1]));
    return ops.reshape(merged, [N, n / WINDOW, D]);
  }
}
