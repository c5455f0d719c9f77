/**
 * The vision tower of MiniCPM-V-2: timm's ViT so400m/14. With SigLIP weights (Zhai et al., 2023) and without pooling.
 * The learned position table is resampled to the picture's grid by antialiased bicubic interpolation, through which its
 * gradient flows.
 *
 * Shapes: N pictures, n patches, D hidden size, H heads.
 */
import type { VisionConfig } from '@minicpm-finetune/processor';
import { LayerNorm, Linear, Module, ops, type Parameter, type Tensor } from '@minicpm-finetune/torch';
import { type Grid, PatchEmbedding, type PictureGroup } from './patches.js';
import { parametersOf } from './plan.js';
import { type Stage, stage, type VisionTower } from './stage.js';
import { VisionMlp } from './vision-mlp.js';

class TimmPatchEmbed extends Module {
  readonly proj: PatchEmbedding;

  constructor({ hiddenSize, patchSize }: VisionConfig) {
    super();
    this.proj = this.child('proj', new PatchEmbedding(hiddenSize, patchSize));
  }
}

class TimmAttention extends Module {
  readonly qkv: Linear;
  readonly proj: Linear;

  readonly heads: number;

  constructor(dim: number, heads: number) {
    super();
    this.heads = heads;
    this.qkv = this.child('qkv', new Linear(dim, 3 * dim, { bias: true }));
    this.proj = this.child('proj', new Linear(dim, dim, { bias: true }));
  }

  forward(x: Tensor, lengths?: readonly number[]): Tensor {
    const [N, n, D] = x.shape as [number, number, number];
    const qkv = ops.reshape(this.qkv.forward(x), [N, n, 3, this.heads, D / this.heads]);
    const [q, k, v] = ops.unbind(ops.permute(qkv, [2, 0, 3, 1, 4]), 0) as [Tensor, Tensor, Tensor]; // (N, H, n, D/H)
    const y = ops.attention(q, k, v, { lengths });
    return this.proj.forward(ops.reshape(ops.transpose(y, 1, 2), [N, n, D]));
  }
}

class TimmBlock extends Module {
  readonly norm1: LayerNorm;
  readonly attn: TimmAttention;
  readonly norm2: LayerNorm;
  readonly mlp: VisionMlp;

  constructor({ hiddenSize, intermediateSize, numHeads, layerNormEps }: VisionConfig) {
    super();
    this.norm1 = this.child('norm1', new LayerNorm(hiddenSize, layerNormEps));
    this.attn = this.child('attn', new TimmAttention(hiddenSize, numHeads));
    this.norm2 = this.child('norm2', new LayerNorm(hiddenSize, layerNormEps));
    this.mlp = this.child('mlp', new VisionMlp(hiddenSize, intermediateSize, 'none'));
  }

  forward(x: Tensor, lengths?: readonly number[]): Tensor {
    const y = ops.add(x, this.attn.forward(this.norm1.forward(x), lengths));
    return this.mlp.residual(y, this.norm2);
  }
}

/** `vpm` of MiniCPM-V-2. */
export class TimmVisionTower extends Module implements VisionTower {
  readonly posEmbed: Parameter;
  readonly patchEmbed: TimmPatchEmbed;
  readonly blocks: readonly TimmBlock[];
  readonly norm: LayerNorm;

  readonly config: VisionConfig;

  constructor(config: VisionConfig) {
    super();
    this.config = config;
    this.posEmbed = this.parameter('pos_embed', [1, config.positionSide ** 2, config.hiddenSize]);
    this.patchEmbed = this.child('patch_embed', new TimmPatchEmbed(config));
    this.blocks = this.childList(
      'blocks',
      Array.from({ length: config.numLayers }, () => new TimmBlock(config)),
    );
    this.norm = this.child('norm', new LayerNorm(config.hiddenSize, config.layerNormEps));
  }

  outputGrid(grid: Grid): Grid {
    return grid;
  }

  /** The position table for a grid of patches: (1, rows * cols, D), in the table's type. */
  positions(rows: number, cols: number): Tensor {
    const table = this.posEmbed.data;
    const { positionSide: side, hiddenSize: D } = this.config;
    if (rows === side && cols === side) return table;
    const image = ops.permute(ops.reshape(ops.to(table, 'float32'), [1, side, side, D]), [0, 3, 1, 2]);
    const resampled = ops.upsampleBicubic2dAa(image, [rows, cols], false); // (1, D, rows, cols)
    return ops.to(ops.reshape(ops.permute(resampled, [0, 2, 3, 1]), [1, rows * cols, D]), table.dtype);
  }

  /** `positions` of pictures one after the other: (1, n, D). Pictures of one shape share them. */
  #positionsOf(pictures: readonly Grid[]): Tensor {
    const shapes = pictures.map(({ rows, cols }) => `${rows}x${cols}`);
    const known = new Map<string, Tensor>();
    pictures.forEach(({ rows, cols }, i) => {
      if (!known.has(shapes[i]!)) known.set(shapes[i]!, this.positions(rows, cols));
    });
    return ops.cat(
      shapes.map((shape) => known.get(shape)!),
      1,
    );
  }

  /** The tower for one group of pictures, block by block; the last output is (N, n, D), N = 1 for a packed group. */
  stages(path: string, group: PictureGroup): Stage[] {
    const { pictures, rows, cols, lengths } = group;
    const embed: Stage = {
      name: `${path}.patch_embed`,
      parameters: new Map([
        ...parametersOf(`${path}.patch_embed`, this.patchEmbed),
        [`${path}.pos_embed`, this.posEmbed],
      ]),
      forward: () =>
        ops.add(
          this.patchEmbed.proj.forward(group),
          lengths ? this.#positionsOf(pictures) : this.positions(rows, cols),
        ),
    };
    return [
      embed,
      ...this.blocks.map((block, i) => stage(`${path}.blocks.${i}`, block, (x) => block.forward(x, lengths))),
      stage(`${path}.norm`, this.norm, (x) => this.norm.forward(x)),
    ];
  }
}
