/**
 * The whole model: vision tower, resampler, language model. MiniCPM-V (Yao et al., 2024): the resampler turns every
 * picture into a fixed number of tokens, which replace embeddings of the language model. A forward pass is a plan
 * (plan.ts) that someone else runs.
 *
 * Not here: the parts (siglip.ts, timm-vit.ts, resampler.ts, decoder.ts), weights (weights.ts), loss, generation, memory.
 * Shapes: B sequences, L positions, D hidden size, Q tokens of a picture, V vocabulary.
 */
import { strict as assert } from 'node:assert';
import type { ModelConfig } from '@minicpm-finetune/processor';
import { VERSIONS, type Version } from '@minicpm-finetune/processor';
import {
  fromTypedArray,
  hasFlashAttention,
  keep,
  Module,
  ops,
  type Parameter,
  scope,
  type Tensor,
} from '@minicpm-finetune/torch';
import { LanguageModel } from './decoder.js';
import { appendEmbedding, scatter } from './embedding.js';
import type { KnownPictures, ModelInputs, PlanOptions } from './inputs.js';
import { groupByShape, type Picture, type PictureGroup, rowsOfPictures, split } from './patches.js';
import { type Plan, type PlanNode, parametersOf, runPlan } from './plan.js';
import { Resampler } from './resampler.js';
import { SiglipVisionTower } from './siglip.js';
import { type Stage, stage, type VisionTower } from './stage.js';
import { TimmVisionTower } from './timm-vit.js';

/** Output of a plan node that belongs to some of the pictures: a row each, or, packed, one row in which they lie one after the other. */
interface Part {
  readonly node: number;
  readonly indices: readonly number[];
  /** Of a packed row. */
  readonly lengths?: readonly number[];
}

const DUMMY_SIDE = 224;

export class MiniCPMV extends Module {
  readonly llm: LanguageModel;
  readonly vpm: VisionTower;
  readonly resampler: Resampler;
  readonly version: Version;
  #zeroPicture: Tensor | undefined;

  readonly config: ModelConfig;

  /** Declares the model; nothing is allocated until weights come (weights.ts, create.ts). */
  constructor(config: ModelConfig) {
    super();
    this.config = config;
    this.version = VERSIONS[config.version];
    const { llm, vision } = config;
    this.llm = this.child('llm', new LanguageModel(llm));
    this.vpm = this.child(
      'vpm',
      this.version.tower === 'navit' ? new SiglipVisionTower(vision) : new TimmVisionTower(vision),
    );
    this.resampler = this.child(
      'resampler',
      new Resampler({
        queryNum: config.queryNum,
        dim: llm.hiddenSize,
        visionDim: vision.hiddenSize,
        storedPosEmbed: this.version.resamplerPosEmbed,
      }),
    );
  }

  /** Parameters that full fine-tuning leaves alone: position tables that are stored but fixed. */
  get fixedParameters(): ReadonlySet<string> {
    return new Set(this.version.resamplerPosEmbed ? ['resampler.pos_embed'] : []);
  }

  /**
   * The forward pass of a batch up to the last norm: hidden states (B, L, D), ready for `logits`. Attention is causal and nothing else:
   * padding belongs on the right and out of the loss.
   */
  plan(inputs: ModelInputs, options: PlanOptions): Plan {
    const nodes: PlanNode[] = [];
    const decoder = this.llm.model;
    const rope = append(nodes, {
      name: 'llm.model.rotary_emb',
      parameters: new Map(),
      forward: () => decoder.rope(inputs.positionIds, inputs.lengths && Math.max(...inputs.lengths)),
    });
    let x = this.#appendEmbeds(nodes, inputs, options);
    const packed = inputs.lengths === undefined ? undefined : { lengths: inputs.lengths, rows: inputs.rows };
    decoder.layers.forEach((layer, i) => {
      const name = `llm.model.layers.${i}`;
      const parameters = parametersOf(name, layer);
      x =
        nodes.push({ name, parameters, inputs: [x, rope], forward: (h, table) => layer.forward(h!, table!, packed) }) -
        1;
    });
    append(
      nodes,
      stage('llm.model.norm', decoder.norm, (h) => decoder.finish(h)),
      x,
    );
    return nodes;
  }

  /** Hidden states (…, D), the output of a plan or of `llm.model.forward`, to logits (…, V), float32. */
  logits(hidden: Tensor): Tensor {
    return this.llm.logits(hidden);
  }

  /** The parameters of `logits`, by full name. */
  headParameters(): ReadonlyMap<string, Parameter> {
    return new Map(this.llm.headParameters('llm'));
  }

  /** Embeddings (B, L, D) with the pictures' tokens in place. */
  inputsEmbeds(inputs: ModelInputs): Tensor {
    const nodes: PlanNode[] = [];
    this.#appendEmbeds(nodes, inputs, { train: false });
    return runPlan(nodes);
  }

  /** The tower's output for each picture, (rows * cols, vision width). Pictures of one call may influence each other in 2.5, as in training. */
  visionFeatures(pictures: readonly Picture[]): Tensor[] {
    const nodes: PlanNode[] = [];
    const parts = this.#appendTower(nodes, this.#groups(pictures), pictures);
    return outputsOfPictures(nodes, parts, pictures.length, (row, i) => {
      const { rows, cols } = pictures[i]!;
      return ops.narrow(row, 0, 0, rows * cols);
    });
  }

  /** Whether a picture's tokens are the same whatever other pictures are in one call; not so in 2.5, where pictures see each other's padding. */
  get picturesAreIndependent(): boolean {
    return this.version.positions === 'grid' || !this.config.batchVision;
  }

  /** Each picture's tokens, (Q, D). */
  pictureTokens(pictures: readonly Picture[]): Tensor[] {
    const nodes: PlanNode[] = [];
    const parts = this.#appendPictures(nodes, pictures, this.#groups(pictures));
    return outputsOfPictures(nodes, parts, pictures.length, (row) => row);
  }

  /** Tokens (1, Q, D) of the zero picture that stands in for pictures in training. */
  dummyTokens(): Tensor {
    const nodes: PlanNode[] = [];
    this.#appendDummy(nodes);
    return runPlan(nodes);
  }

  override dispose(): void {
    super.dispose();
    this.#zeroPicture?.dispose();
    this.#zeroPicture = undefined;
  }

  /** Embedding of the tokens with the pictures scattered into it. */
  #appendEmbeds(nodes: PlanNode[], inputs: ModelInputs, options: PlanOptions): number {
    const { zeroPicture = false, known, packPictures } = options;
    const pictures = inputs.pictures.flat();
    const rows = this.#tokenRows(inputs);
    const embed = appendEmbedding(nodes, this.llm, inputs, options);
    if (pictures.length > 0) {
      const parts = this.#appendPictures(nodes, pictures, this.#groups(pictures, packPictures), known);
      const places = BigInt64Array.from(parts.flatMap((part) => part.indices.flatMap((i) => rows[i]!)));
      const from = parts.map((part) => part.node);
      return embed((x, ...tokens) => scatter(x, tokens, places), from);
    }
    const trains = [this.vpm, this.resampler].some((module) =>
      [...module.namedParameters()].some(([, { requiresGrad }]) => requiresGrad),
    );
    if (!zeroPicture || !trains) return embed((x) => x, []);
    const dummy = this.#appendDummy(nodes);
    return embed((x, tokens) => ops.add(x, ops.to(ops.mulScalar(ops.meanAll(tokens!), 0), x.dtype)), [dummy]);
  }

  /** For each picture the rows of the flattened batch (B * L) that its tokens take. */
  #tokenRows({ inputIds, pictures, imageBounds }: ModelInputs): bigint[][] {
    const [B, L] = inputIds.shape as [number, number];
    assert.equal(pictures.length, B, 'a list of pictures for each sequence');
    assert.equal(imageBounds.length, B, 'a list of image bounds for each sequence');
    return imageBounds.flatMap((bounds, b) => {
      assert.equal(bounds.length, pictures[b]!.length, `as many image bounds as pictures in sequence ${b}`);
      return bounds.map(([start, end]) => {
        assert.equal(end - start, this.config.queryNum, `tokens of a picture in sequence ${b}`);
        assert.ok(start >= 0 && end <= L, `image bounds [${start}, ${end}) within ${L} positions`);
        return Array.from({ length: end - start }, (_, i) => BigInt(b * L + start + i));
      });
    });
  }

  /** Whether attention over packed pictures is one call. On other devices, pictures of one shape are computed together instead. */
  get #packsPictures(): boolean {
    const { device, dtype } = this.#visionWeight;
    return dtype !== 'float32' && hasFlashAttention(device);
  }

  get #visionWeight(): Tensor {
    return [...this.vpm.namedParameters()][0]![1].data;
  }

  /** Which pictures go through the tower together: indices and the grid of their positions. */
  #groups(pictures: readonly Picture[], packs = this.#packsPictures): PictureIndices[] {
    const { batchSize } = this.config.vision;
    const group = (rows: number, cols: number, members: readonly number[]): PictureIndices[] =>
      split(members, rows * cols, batchSize).map((indices) => ({ indices, rows, cols }));
    if (this.version.positions === 'grid' && packs) {
      const all = pictures.map(({ rows, cols }) => rows * cols);
      return rowsOfPictures(all, batchSize).map((indices) => {
        const lengths = indices.map((i) => all[i]!);
        return { indices, lengths, rows: 1, cols: lengths.reduce((sum, length) => sum + length, 0) };
      });
    }
    if (this.version.positions === 'grid')
      return groupByShape(pictures).flatMap((indices) => {
        const { rows, cols } = pictures[indices[0]!]!;
        return group(rows, cols, indices);
      });
    const lengths = pictures.map(({ rows, cols }) => rows * cols);
    if (!this.config.batchVision) return lengths.flatMap((length, i) => group(1, length, [i]));
    return group(1, Math.max(1, ...lengths), [...lengths.keys()]);
  }

  #appendTower(nodes: PlanNode[], groups: readonly PictureIndices[], pictures: readonly Picture[]): Part[] {
    return groups.map(({ indices, ...shape }) => {
      const group: PictureGroup = { pictures: indices.map((i) => pictures[i]!), ...shape };
      const node = this.vpm.stages('vpm', group).reduce((from, next) => append(nodes, next, from), -1);
      return { node, indices, ...(shape.lengths && { lengths: shape.lengths }) };
    });
  }

  /** The known values of pictures as parts of a plan. */
  #appendKnown(nodes: PlanNode[], groups: readonly PictureIndices[], { level, values }: KnownPictures): Part[] {
    assert.equal(this.version.positions, 'grid', 'pictures do not influence each other');
    assert.equal(values.length, groups.flatMap(({ indices }) => indices).length, 'a value for each picture');
    return groups.map(({ indices, lengths }) => {
      const own = indices.map((i) => values[i]!);
      const packed = level === 'features' ? lengths : undefined;
      const forward = (): Tensor => (packed ? ops.unsqueeze(ops.cat(own), 0) : ops.stack(own));
      const node = append(nodes, { name: `vpm.${level}`, parameters: new Map(), forward });
      return { node, indices, ...(packed && { lengths: packed }) };
    });
  }

  /** Tower and resampler. Unless packed, the resampler sees the pictures of one shape at a time, so that it needs no mask either. */
  #appendPictures(
    nodes: PlanNode[],
    pictures: readonly Picture[],
    groups: readonly PictureIndices[],
    known?: KnownPictures,
  ): Part[] {
    const parts = known ? this.#appendKnown(nodes, groups, known) : this.#appendTower(nodes, groups, pictures);
    if (known?.level === 'tokens') return parts;
    return parts.flatMap(({ node, indices, lengths }) => {
      const members = indices.map((i) => pictures[i]!);
      if (lengths) {
        const forward = (x: Tensor): Tensor => this.resampler.forwardPacked(x, members);
        return [{ node: append(nodes, stage('resampler', this.resampler, forward), node), indices }];
      }
      return groupByShape(members).map((rows) => {
        const { rows: down, cols: across } = members[rows[0]!]!;
        const forward = (x: Tensor): Tensor =>
          this.resampler.forward(ops.narrow(rowsOf(x, rows), 1, 0, down * across), down, across);
        const next = append(nodes, stage('resampler', this.resampler, forward), node);
        return { node: next, indices: rows.map((row) => indices[row]!) };
      });
    });
  }

  #appendDummy(nodes: PlanNode[]): number {
    const side = DUMMY_SIDE / this.config.vision.patchSize;
    const { device } = this.#visionWeight;
    this.#zeroPicture ??= scope(() => keep(ops.zeros([3, DUMMY_SIDE, DUMMY_SIDE], { device })));
    const picture = { pixels: this.#zeroPicture, rows: side, cols: side };
    return this.#appendPictures(nodes, [picture], [{ indices: [0], rows: side, cols: side }])[0]!.node;
  }
}

type PictureIndices = Omit<PictureGroup, 'pictures'> & { readonly indices: readonly number[] };

/** Adds a block after another one (-1: it has no input) and returns its index. */
function append(nodes: PlanNode[], block: Stage, from = -1): number {
  const { name, parameters } = block;
  return nodes.push({ name, parameters, inputs: from < 0 ? [] : [from], forward: (x) => block.forward(x!) }) - 1;
}

/** Some rows of x (N, …), in order; x itself when they are all. */
function rowsOf(x: Tensor, rows: readonly number[]): Tensor {
  if (rows.length === x.size(0)) return x;
  return ops.indexSelect(x, 0, fromTypedArray(BigInt64Array.from(rows, BigInt), [rows.length], 'int64', x.device));
}

/** Runs a plan and returns, for each of `count` pictures, its row of the part it is in, or its piece of a packed row. */
function outputsOfPictures(
  nodes: Plan,
  parts: readonly Part[],
  count: number,
  pick: (row: Tensor, index: number) => Tensor,
): Tensor[] {
  return scope(() => {
    const outputs: Tensor[] = [];
    const ends = new Set(parts.map(({ node }) => node));
    nodes.forEach((node, i) => {
      outputs[i] = scope(() => node.forward(...node.inputs.map((j) => outputs[j]!)));
      for (const j of node.inputs)
        if (!ends.has(j) && nodes.findLastIndex(({ inputs }) => inputs.includes(j)) === i) outputs[j]!.dispose();
    });
    const rows = new Array<Tensor>(count);
    for (const { node, indices, lengths } of parts) {
      const own = lengths ? ops.splitWithSizes(ops.select(outputs[node]!, 0, 0), lengths) : ops.unbind(outputs[node]!);
      indices.forEach((index, k) => {
        rows[index] = pick(own[k]!, index);
      });
    }
    return rows;
  });
}
