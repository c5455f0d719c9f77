/** The files of a trained model. All ranks write weights or adapter, rank 0 what is beside them. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { planShards, scope, type Tensor } from '@minicpm-finetune/torch';
import { fromFirst } from '../parallel/agree.js';
import type { Sharding } from '../parallel/sharding.js';
import { heldWeight } from './held.js';
import type { SharedFolder } from './shared-folder.js';
import { writeTensorFiles } from './tensor-files.js';

/** How the model in training is saved. */
export interface SavedModel {
  /** File names begin with it. */
  readonly stem: string;
  /** Most bytes of tensors in one file. */
  readonly maxShardBytes: number;
  /** The tensors, the same on all ranks and in one order; in the caller's scope. */
  tensors(): Map<string, Tensor>;
  /** Writes what is beside the tensors, which are there. */
  writeOthers(folder: string): void;
}

/** Writes the model into a folder that has none. Collective. */
export function writeModel(folder: SharedFolder, model: SavedModel, sharding: Sharding | null): void {
  const { stem, maxShardBytes } = model;
  scope(() => {
    const tensors = new Map([...model.tensors()].map(([name, tensor]) => [name, heldWeight(tensor, sharding)]));
    const { files, index } = planShards(tensors, { stem, maxShardBytes });
    writeTensorFiles(folder, files, tensors);
    fromFirst(folder.ranks, 'files beside the weights', () => {
      if (index !== null) writeFileSync(join(folder.path, index.name), index.text);
      model.writeOthers(folder.path);
    });
  });
}
