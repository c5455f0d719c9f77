/** Chains of blocks that have no place in a plan yet. */
import type { Module, Parameter, Tensor } from '@minicpm-finetune/torch';
import type { Grid, PictureGroup } from './patches.js';
import { type PlanNode, parametersOf } from './plan.js';

/** One block of a chain; it gets the output of the one before, the first gets nothing. */
export interface Stage {
  readonly name: string;
  readonly parameters: ReadonlyMap<string, Parameter>;
  forward(x: Tensor): Tensor;
}

/** A block that reads the parameters of one module. */
export function stage(path: string, module: Module, forward: (x: Tensor) => Tensor): Stage {
  return { name: path, parameters: parametersOf(path, module), forward };
}

/** Adds a block after another node (-1: it has no input) to a plan and returns its index. */
export function append(nodes: PlanNode[], block: Stage, from = -1): number {
  const { name, parameters } = block;
  return nodes.push({ name, parameters, inputs: from < 0 ? [] : [from], forward: (x) => block.forward(x!) }) - 1;
}

/** A vision tower as the plan sees it. */
export interface VisionTower extends Module {
  /** The tower for one group of pictures as a chain of blocks; the last output is (pictures, patches, hidden size). */
  stages(path: string, group: PictureGroup): Stage[];
  /** The grid that a picture's grid of patches has become in the output. */
  outputGrid(grid: Grid): Grid;
}

/** What makes tokens of a vision tower's output. Grids are those of the output. */
export interface Connector extends Module {
  /** Tokens of a picture. */
  tokensOf(grid: Grid): number;
  /** Features (N, rows * cols, V) of pictures of one shape, row by row, to their tokens (N, Q, D). */
  forward(features: Tensor, rows: number, cols: number): Tensor;
  /** Features (1, n, V) of pictures of any shapes, one after the other, to their tokens, likewise (1, Q of all, D). */
  forwardPacked(features: Tensor, grids: readonly Grid[]): Tensor;
}
