/**
 * Pictures as nodes of a plan: tower and connector. Pictures go through the tower in groups of one shape, or packed one
 * after the other, and become tokens for the language model.
 *
 * Shapes: N pictures, n patches, V vision width, Q tokens of a picture, D hidden size of the language model.
 */
import { strict as assert } from 'node:assert';
import { type ModelConfig, VERSIONS, type Version } from '@minicpm-finetune/processor';
import { fromTypedArray, hasFlashAttention, keep, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import type { KnownPictures } from './inputs.js';
import {
  type Grid,
  groupByShape,
  type Picture,
  type PictureGroup,
  piecesOf,
  rowsOfPictures,
  split,
} from './patches.js';
import { type Plan, type PlanNode, parametersOf } from './plan.js';
import { hasTimes, Resampler } from './resampler.js';
import { append, type Connector, stage, type VisionTower } from './stage.js';

/** Output of a plan node that belongs to some of the pictures (or groups of frames): a row each, or, packed, one row in which they lie one after the other. */
export interface Part {
  readonly node: number;
  readonly indices: readonly number[];
  /** Of a packed row. */
  readonly lengths?: readonly number[];
}

export interface PictureOptions {
  /** Sizes of groups of frames that become the tokens of one picture; absent: pictures are by themselves. */
  readonly groups?: readonly number[] | undefined;
  readonly known?: KnownPictures | undefined;
  /** As `PlanOptions.packPictures`. */
  readonly packs?: boolean | undefined;
  /** Which pictures go through the tower together; absent: as it is best. */
  readonly shapes?: readonly PictureIndices[];
}

type PictureIndices = Omit<PictureGroup, 'pictures'> & { readonly indices: readonly number[] };

const DUMMY_SIDE = 224;

export class PictureNodes {
  readonly #config: ModelConfig;
  readonly #version: Version;
  readonly #vpm: VisionTower;
  readonly #connector: Connector;
  #zeroPicture: Tensor | undefined;

  constructor(config: ModelConfig, vpm: VisionTower, connector: Connector) {
    this.#config = config;
    this.#version = VERSIONS[config.version];
    this.#vpm = vpm;
    this.#connector = connector;
  }

  /** Rows of features that the tower gives for a picture. */
  featuresOf(grid: Grid): number {
    const { rows, cols } = this.#vpm.outputGrid(grid);
    return rows * cols;
  }

  tokensOf(grid: Grid): number {
    return this.#connector.tokensOf(this.#vpm.outputGrid(grid));
  }

  /** The tower. */
  appendTower(
    nodes: PlanNode[],
    pictures: readonly Picture[],
    shapes: readonly PictureIndices[] = this.#groups(pictures),
  ): Part[] {
    return shapes.map(({ indices, ...shape }) => {
      const group: PictureGroup = { pictures: indices.map((i) => pictures[i]!), ...shape };
      const stages = this.#vpm.stages(this.#version.parts.vision, group);
      const node = stages.reduce((from, next) => append(nodes, next, from), -1);
      return { node, indices, ...(shape.lengths && { lengths: group.pictures.map((grid) => this.featuresOf(grid)) }) };
    });
  }

  /** Tower and connector. Unless packed, the connector sees the pictures of one shape at a time, so that it needs no mask either. */
  append(nodes: PlanNode[], pictures: readonly Picture[], options: PictureOptions): Part[] {
    const { groups, known, packs, shapes = this.#groups(pictures, packs) } = options;
    const parts = known ? this.#appendKnown(nodes, shapes, pictures, known) : this.appendTower(nodes, pictures, shapes);
    if (known?.level === 'tokens') return parts;
    const grouped = groups?.some((size) => size !== 1) || hasTimes(pictures);
    return grouped
      ? [this.#appendGroups(nodes, parts, pictures, groups ?? pictures.map(() => 1))]
      : this.#appendConnector(nodes, parts, pictures);
  }

  appendDummy(nodes: PlanNode[]): number {
    const side = DUMMY_SIDE / this.#config.vision.patchSize;
    const { device } = this.#visionWeight;
    this.#zeroPicture ??= scope(() => keep(ops.zeros([3, DUMMY_SIDE, DUMMY_SIDE], { device })));
    const grid = { rows: side, cols: side };
    const shapes = [{ indices: [0], ...grid }];
    return this.append(nodes, [{ pixels: this.#zeroPicture, ...grid }], { shapes })[0]!.node;
  }

  dispose(): void {
    this.#zeroPicture?.dispose();
    this.#zeroPicture = undefined;
  }

  get #visionWeight(): Tensor {
    return [...this.#vpm.namedParameters()][0]![1].data;
  }

  /** Whether attention over packed pictures is one call. On other devices, pictures of one shape are computed together instead. */
  get #packsPictures(): boolean {
    const { device, dtype } = this.#visionWeight;
    return dtype !== 'float32' && hasFlashAttention(device);
  }

  /** Which pictures go through the tower together: indices and the grid of their positions. */
  #groups(pictures: readonly Picture[], packs = this.#packsPictures): PictureIndices[] {
    const { batchSize } = this.#config.vision;
    const group = (rows: number, cols: number, members: readonly number[]): PictureIndices[] =>
      split(members, rows * cols, batchSize).map((indices) => ({ indices, rows, cols }));
    if (this.#version.positions === 'grid' && packs) {
      const all = pictures.map(({ rows, cols }) => rows * cols);
      return rowsOfPictures(all, batchSize).map((indices) => {
        const lengths = indices.map((i) => all[i]!);
        return { indices, lengths, rows: 1, cols: lengths.reduce((sum, length) => sum + length, 0) };
      });
    }
    if (this.#version.positions === 'grid')
      return groupByShape(pictures).flatMap((indices) => {
        const { rows, cols } = pictures[indices[0]!]!;
        return group(rows, cols, indices);
      });
    const lengths = pictures.map(({ rows, cols }) => rows * cols);
    if (!this.#config.batchVision) return lengths.flatMap((length, i) => group(1, length, [i]));
    return group(1, Math.max(1, ...lengths), [...lengths.keys()]);
  }

  /** The known values of pictures as parts of a plan. */
  #appendKnown(
    nodes: PlanNode[],
    groups: readonly PictureIndices[],
    pictures: readonly Picture[],
    { level, values }: KnownPictures,
  ): Part[] {
    assert.equal(this.#version.positions, 'grid', 'pictures do not influence each other');
    assert.equal(values.length, pictures.length, 'a value for each picture');
    return groups.map(({ indices, lengths }) => {
      const own = indices.map((i) => values[i]!);
      const forward = (): Tensor => (lengths ? ops.unsqueeze(ops.cat(own), 0) : ops.stack(own));
      const name = `${this.#version.parts.vision}.${level}`;
      const node = append(nodes, { name, parameters: new Map(), forward });
      return { node, indices, ...(lengths && { lengths: own.map((value) => value.size(0)) }) };
    });
  }

  #appendConnector(nodes: PlanNode[], parts: readonly Part[], pictures: readonly Picture[]): Part[] {
    const connector = this.#connector;
    const name = this.#version.parts.connector;
    return parts.flatMap(({ node, indices, lengths }): Part[] => {
      const members = indices.map((i) => this.#vpm.outputGrid(pictures[i]!));
      if (lengths) {
        const forward = (x: Tensor): Tensor => connector.forwardPacked(x, members);
        const packed = members.map((grid) => connector.tokensOf(grid));
        return [{ node: append(nodes, stage(name, connector, forward), node), indices, lengths: packed }];
      }
      return groupByShape(members).map((rows) => {
        const { rows: down, cols: across } = members[rows[0]!]!;
        const forward = (x: Tensor): Tensor =>
          connector.forward(ops.narrow(rowsOf(x, rows), 1, 0, down * across), down, across);
        const next = append(nodes, stage(name, connector, forward), node);
        return { node: next, indices: rows.map((row) => indices[row]!) };
      });
    });
  }

  /** A resampler over groups of frames, whose patches it looks at together: one node for all of them. */
  #appendGroups(
    nodes: PlanNode[],
    parts: readonly Part[],
    pictures: readonly Picture[],
    groups: readonly number[],
  ): Part {
    const connector = this.#connector;
    assert.ok(connector instanceof Resampler, 'a resampler for groups of frames');
    const members = piecesOf(pictures, groups);
    const forward = (...outputs: Tensor[]): Tensor => {
      const rows = new Array<Tensor>(pictures.length);
      for (const [k, { indices, lengths }] of parts.entries()) {
        const own = outputPieces(outputs[k]!, lengths);
        for (const [j, i] of indices.entries()) rows[i] = ops.narrow(own[j]!, 0, 0, this.featuresOf(pictures[i]!));
      }
      return connector.forwardGroups(ops.unsqueeze(ops.cat(rows), 0), members);
    };
    const name = this.#version.parts.connector;
    const inputs = parts.map(({ node }) => node);
    const node = nodes.push({ name, parameters: parametersOf(name, connector), inputs, forward }) - 1;
    return { node, indices: [...groups.keys()] };
  }
}

/** The rows of a part's output, or the pieces of a packed one. */
const outputPieces = (output: Tensor, lengths?: readonly number[]): Tensor[] =>
  lengths ? ops.splitWithSizes(ops.select(output, 0, 0), lengths) : ops.unbind(output);

/** Some rows of x (N, …), in order; x itself when they are all. */
function rowsOf(x: Tensor, rows: readonly number[]): Tensor {
  if (rows.length === x.size(0)) return x;
  return ops.indexSelect(x, 0, fromTypedArray(BigInt64Array.from(rows, BigInt), [rows.length], 'int64', x.device));
}

/** Runs a plan and returns, for each of `count` pictures, its row of the part it is in, or its piece of a packed row. */
export function outputsOfPictures(
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
      const own = outputPieces(outputs[node]!, lengths);
      indices.forEach((index, k) => {
        rows[index] = pick(own[k]!, index);
      });
    }
    return rows;
  });
}
