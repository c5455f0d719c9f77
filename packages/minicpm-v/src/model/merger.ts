/**
 * The connector of the models without a resampler. Four rows become a token: windows of 2x2 of what the vision tower
 * gives pass a norm and two linear maps to the width of the language model.
 */
import { LayerNorm, Linear, Module, ops, type Tensor } from '@minicpm-finetune/torch';
import type { Grid } from './patches.js';
import type { Connector } from './stage.js';
import { mergedGrid, WINDOW, windowsOf } from './windows.js';

const EPS = 1e-6;

class MergerMlp extends Module {
  readonly preNorm: LayerNorm;
  readonly linear1: Linear;
  readonly linear2: Linear;

  constructor(visionDim: number, dim: number) {
    super();
    const joined = WINDOW * visionDim;
    this.preNorm = this.child('pre_norm', new LayerNorm(joined, EPS));
    this.linear1 = this.child('linear_1', new Linear(joined, joined, { bias: true }));
    this.linear2 = this.child('linear_2', new Linear(joined, dim, { bias: true }));
  }

  forward(x: Tensor): Tensor {
    const hidden = ops.gelu(this.linear1.forward(this.preNorm.forward(x)), { approximate: 'none' });
    return this.linear2.forward(hidden);
  }
}

export class Merger extends Module implements Connector {
  readonly mlp: MergerMlp;

  constructor({ visionDim, dim }: { readonly visionDim: number; readonly dim: number }) {
    super();
    this.mlp = this.child('mlp.0', new MergerMlp(visionDim, dim));
  }

  tokensOf(grid: Grid): number {
    const { rows, cols } = mergedGrid(grid);
    return rows * cols;
  }

  /** Features (N, rows * cols, V) of pictures of one shape to their tokens (N, Q, D). */
  forward(features: Tensor, rows: number, cols: number): Tensor {
    const N = features.size(0);
    const windows = windowsOf(features, { rows, cols, pictures: [] });
    return ops.reshape(this.mlp.forward(ops.reshape(windows, [windows.size(0), -1])), [N, (rows * cols) / WINDOW, -1]);
  }

  /** Features (1, n, V) of pictures of any shapes, one after the other, to their tokens (1, Q of all, D). */
  forwardPacked(features: Tensor, grids: readonly Grid[]): Tensor {
    const lengths = grids.map(({ rows, cols }) => rows * cols);
    const windows = windowsOf(features, { rows: 1, cols: features.size(1), lengths, pictures: grids });
    return ops.unsqueeze(this.mlp.forward(ops.reshape(windows, [windows.size(0), -1])), 0);
  }
}
