/**
 * The whole model: vision tower, connector, language model. MiniCPM-V (Yao et al., 2024): the connector turns every
 * picture into tokens, which replace embeddings of the language model. A forward pass is a plan (plan.ts) that someone
 * else runs.
 *
 * Not here: pictures as nodes (picture-nodes.ts), the parts (siglip.ts, timm-vit.ts, resampler.ts, merger.ts, decoder.ts), weights (weights.ts), loss, generation, memory.
 * Shapes: B sequences, L positions, D hidden size, Q tokens of a picture, V vocabulary.
 */
import { strict as assert } from 'node:assert';
import { fixedTokens, type ModelConfig, type PartNames, VERSIONS, type Version } from '@minicpm-finetune/processor';
import { Module, ops, type Parameter, type Tensor } from '@minicpm-finetune/torch';
import { LanguageModel } from './decoder.js';
import { appendEmbedding, scatter } from './embedding.js';
import type { ModelInputs, PlanOptions } from './inputs.js';
import { Merger } from './merger.js';
import type { Grid, Picture } from './patches.js';
import { outputsOfPictures, PictureNodes } from './picture-nodes.js';
import { type Plan, type PlanNode, parametersOf, runPlan } from './plan.js';
import { Resampler } from './resampler.js';
import { SiglipVisionTower } from './siglip.js';
import { append, type Connector, stage, type VisionTower } from './stage.js';
import { TimmVisionTower } from './timm-vit.js';

export class MiniCPMV extends Module {
  readonly llm: LanguageModel;
  readonly vpm: VisionTower;
  /** Makes the tokens of pictures of what the tower gives. */
  readonly connector: Connector;
  readonly version: Version;
  readonly #pictures: PictureNodes;

  readonly config: ModelConfig;

  /** Declares the model; nothing is allocated until weights come (weights.ts, create.ts). */
  constructor(config: ModelConfig) {
    super();
    this.config = config;
    this.version = VERSIONS[config.version];
    const { llm, vision, merger } = config;
    const { parts, tower, buckets, connector } = this.version;
    this.llm = this.child(parts.llm, new LanguageModel(llm, parts));
    this.vpm = this.child(
      parts.vision,
      tower === 'navit' ? new SiglipVisionTower(vision, buckets, merger) : new TimmVisionTower(vision),
    );
    const sizes = { dim: llm.hiddenSize, visionDim: vision.hiddenSize };
    this.connector = this.child(
      parts.connector,
      connector === 'merger'
        ? new Merger(sizes)
        : new Resampler({
            ...sizes,
            queryNum: fixedTokens(config.pictureTokens),
            storedPosEmbed: this.version.resamplerPosEmbed,
          }),
    );
    this.#pictures = new PictureNodes(config, this.vpm, this.connector);
  }

  /** Where the checkpoint has the parts of the model. */
  get parts(): PartNames {
    return this.version.parts;
  }

  /** Parameters that full fine-tuning leaves alone: position tables that are stored but fixed. */
  get fixedParameters(): ReadonlySet<string> {
    return new Set(this.version.resamplerPosEmbed ? [`${this.parts.connector}.pos_embed`] : []);
  }

  /**
   * The forward pass of a batch up to the last norm: hidden states (B, L, D), ready for `logits`. Attention is causal and nothing else:
   * padding belongs on the right and out of the loss.
   */
  plan(inputs: ModelInputs, options: PlanOptions): Plan {
    const nodes: PlanNode[] = [];
    const decoder = this.llm.model;
    const rope = append(nodes, {
      name: `${this.parts.decoder}.rotary_emb`,
      parameters: new Map(),
      forward: () => decoder.rope(inputs.positionIds, inputs.lengths && Math.max(...inputs.lengths)),
    });
    let x = this.#appendEmbeds(nodes, inputs, options);
    const packed = inputs.lengths === undefined ? undefined : { lengths: inputs.lengths, rows: inputs.rows };
    decoder.layers.forEach((layer, i) => {
      const name = `${this.parts.decoder}.layers.${i}`;
      const parameters = parametersOf(name, layer);
      x =
        nodes.push({ name, parameters, inputs: [x, rope], forward: (h, table) => layer.forward(h!, table!, packed) }) -
        1;
    });
    append(
      nodes,
      stage(`${this.parts.decoder}.norm`, decoder.norm, (h) => decoder.finish(h)),
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
    return new Map(this.llm.headParameters());
  }

  /** Embeddings (B, L, D) with the pictures' tokens in place. */
  inputsEmbeds(inputs: ModelInputs): Tensor {
    const nodes: PlanNode[] = [];
    this.#appendEmbeds(nodes, inputs, { train: false });
    return runPlan(nodes);
  }

  /** The tower's output for each picture, (rows * cols of its grid there, vision width). Pictures of one call may influence each other in 2.5, as in training. */
  visionFeatures(pictures: readonly Picture[]): Tensor[] {
    const nodes: PlanNode[] = [];
    const parts = this.#pictures.appendTower(nodes, pictures);
    return outputsOfPictures(nodes, parts, pictures.length, (row, i) =>
      ops.narrow(row, 0, 0, this.#pictures.featuresOf(pictures[i]!)),
    );
  }

  /** Rows of features that the tower gives for a picture. */
  featuresOf(grid: Grid): number {
    return this.#pictures.featuresOf(grid);
  }

  /** Whether a picture's tokens are the same whatever other pictures are in one call; not so in 2.5, where pictures see each other's padding. */
  get picturesAreIndependent(): boolean {
    return this.version.positions === 'grid' || !this.config.batchVision;
  }

  /** Each picture's tokens, (Q, D), or those of each group of frames: `groups` are their sizes. */
  pictureTokens(pictures: readonly Picture[], groups?: readonly number[]): Tensor[] {
    const nodes: PlanNode[] = [];
    const parts = this.#pictures.append(nodes, pictures, { groups });
    return outputsOfPictures(nodes, parts, groups?.length ?? pictures.length, (row) => row);
  }

  /** Tokens (1, Q, D) of the zero picture that stands in for pictures in training. */
  dummyTokens(): Tensor {
    const nodes: PlanNode[] = [];
    this.#pictures.appendDummy(nodes);
    return runPlan(nodes);
  }

  override dispose(): void {
    super.dispose();
    this.#pictures.dispose();
  }

  /** Embedding of the tokens with the pictures scattered into it. */
  #appendEmbeds(nodes: PlanNode[], inputs: ModelInputs, options: PlanOptions): number {
    const { zeroPicture = false, known, packPictures } = options;
    const pictures = inputs.pictures.flat();
    const groups = inputs.groups?.flat();
    const rows = this.#tokenRows(inputs);
    const embed = appendEmbedding(nodes, this.llm, inputs, options);
    if (pictures.length > 0) {
      const parts = this.#pictures.append(nodes, pictures, { groups, known, packs: packPictures });
      const places = BigInt64Array.from(parts.flatMap((part) => part.indices.flatMap((i) => rows[i]!)));
      const from = parts.map((part) => part.node);
      return embed((x, ...tokens) => scatter(x, tokens, places), from);
    }
    const trains = [this.vpm, this.connector].some((module) =>
      [...module.namedParameters()].some(([, { requiresGrad }]) => requiresGrad),
    );
    if (!zeroPicture || !trains || !this.version.zeroPicture) return embed((x) => x, []);
    const dummy = this.#pictures.appendDummy(nodes);
    return embed((x, tokens) => ops.add(x, ops.to(ops.mulScalar(ops.meanAll(tokens!), 0), x.dtype)), [dummy]);
  }

  /** For each picture the rows of the flattened batch (B * L) that its tokens take. */
  #tokenRows({ inputIds, pictures, imageBounds, groups }: ModelInputs): bigint[][] {
    const [B, L] = inputIds.shape as [number, number];
    assert.equal(pictures.length, B, 'a list of pictures for each sequence');
    assert.equal(imageBounds.length, B, 'a list of image bounds for each sequence');
    return imageBounds.flatMap((bounds, b) => {
      const sizes = groups?.[b] ?? pictures[b]!.map(() => 1);
      assert.equal(bounds.length, sizes.length, `as many image bounds as pictures in sequence ${b}`);
      let next = 0;
      return bounds.map(([start, end], i) => {
        const first = pictures[b]![next]!;
        next += sizes[i]!;
        const count = this.#pictures.tokensOf(first);
        assert.equal(end - start, count, `tokens of a picture in sequence ${b}`);
        assert.ok(start >= 0 && end <= L, `image bounds [${start}, ${end}) within ${L} positions`);
        return Array.from({ length: end - start }, (_, i) => BigInt(b * L + start + i));
      });
    });
  }
}
