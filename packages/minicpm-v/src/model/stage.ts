/** Chains of blocks that have no place in a plan yet. */
import type { Module, Parameter, Tensor } from '@minicpm-finetune/torch';
import type { PictureGroup } from './patches.js';
import { parametersOf } from './plan.js';

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

/** A vision tower as the plan sees it. */
export interface VisionTower extends Module {
  /** The tower for one group of pictures as a chain of blocks; the last output is (pictures, patches, hidden size). */
  stages(path: string, group: PictureGroup): Stage[];
}
