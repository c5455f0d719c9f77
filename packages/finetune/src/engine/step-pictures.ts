/**
 * Features of pictures that several passes of a step need. Of a frozen vision tower, whose features are those of the reference
 * as well: each picture is computed once a step. In memory, by micro-batch. Not here: features on disk (vision-cache.ts).
 */
import type { KnownPictures, MiniCPMV, Picture } from '@minicpm-finetune/minicpm-v';
import { keep, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { storableLevel } from './vision-cache.js';

/** Where the features of pictures come from that are constants of a step. */
export interface PictureSource {
  lookup(pictures: readonly Picture[]): KnownPictures;
}

export class StepPictures implements PictureSource {
  readonly #level: KnownPictures['level'];
  readonly #model: MiniCPMV;
  /** By the first picture of a micro-batch. */
  readonly #known = new Map<Picture, Tensor[]>();

  private constructor(model: MiniCPMV, level: KnownPictures['level']) {
    this.#model = model;
    this.#level = level;
  }

  /** Null: the tower trains, or pictures of a batch influence each other. */
  static of(model: MiniCPMV): StepPictures | null {
    const level = storableLevel(model);
    return level && new StepPictures(model, level);
  }

  /** The features of the pictures of a micro-batch; they are this one's. */
  lookup(pictures: readonly Picture[]): KnownPictures {
    const first = pictures[0]!;
    let values = this.#known.get(first);
    if (values === undefined) {
      values = noGrad(() => scope(() => this.#compute(pictures).map((value) => keep(ops.contiguous(value)))));
      this.#known.set(first, values);
    }
    return { level: this.#level, values };
  }

  #compute(pictures: readonly Picture[]): Tensor[] {
    return this.#level === 'tokens' ? this.#model.pictureTokens(pictures) : this.#model.visionFeatures(pictures);
  }

  /** Frees the features of a micro-batch. */
  forget(pictures: readonly Picture[]): void {
    const first = pictures[0];
    if (first === undefined) return;
    for (const value of this.#known.get(first) ?? []) value.dispose();
    this.#known.delete(first);
  }
}
