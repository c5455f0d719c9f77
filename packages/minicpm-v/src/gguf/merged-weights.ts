/**
 * A checkpoint with adapters merged in, a few rows at a time. Nothing is merged in memory: rows are read from the base's
 * file, the adapters' parts added in float32, and given on. Modules that an adapter saved whole take the place of the
 * base's.
 */
import type { ModelConfig } from '@minicpm-finetune/processor';
import { alias, DTYPES, fromTypedArray, ops, scope, type Tensor, type TensorSource } from '@minicpm-finetune/torch';
import { baseFingerprint } from '../adapters/checksums.js';
import { promptNotices } from '../adapters/encoding.js';
import { loadAdapter } from '../adapters/folder.js';
import { adaptedParameters, type LoraAdapter, loraAdapters, removeLora } from '../adapters/lora.js';
import { replacedModules } from '../adapters/merge.js';
import { slicesOfAdapters, type TrainedSlices } from '../adapters/slices.js';
import type { HashProgress } from '../checkpoint/content.js';
import { loadWeights } from '../checkpoint/weights.js';
import { MiniCPMV } from '../model/minicpm-v.js';

/** A low-rank part of a weight: W + scaling · B A, and under DoRA scaled to the magnitude. */
interface LowRank {
  readonly a: Tensor;
  readonly b: Tensor;
  readonly scaling: number;
  readonly magnitude: Tensor | undefined;
}

/** What adapters made of a weight: the tensor that took its place, and the low-rank parts on top. */
interface Change {
  readonly replaced: Tensor | undefined;
  readonly parts: readonly LowRank[];
}

export interface MergedOptions {
  /** Folder of the base checkpoint. */
  readonly model: string;
  /** Adapter folders, each applied on top of the previous result. */
  readonly adapters: readonly string[];
  readonly onHash?: HashProgress;
}

export class MergedWeights implements Disposable {
  /** Shapes of the model's parameters by their names in the checkpoint. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  readonly slice: ModelConfig['slice'];
  /** What a user should know of the adapters. */
  readonly notices: readonly string[];
  readonly #base: TensorSource;
  readonly #changes = new Map<string, Change>();

  /** @throws UserError as `loadWeights` and `loadAdapter` do */
  constructor(config: ModelConfig, { model: folder, adapters, onHash }: MergedOptions) {
    const model = new MiniCPMV(config);
    try {
      this.#base = loadWeights(model, folder).tensors; // mapped, not read
      this.shapes = new Map([...model.namedParameters()].map(([name, { shape }]) => [name, shape]));
      const notices = promptNotices(null, adapters.length === 0 ? config.encoding : null);
      const slices: (TrainedSlices & { readonly saved: readonly string[] })[] = [];
      for (const adapter of adapters) {
        const loaded = loadAdapter(adapter, model, {
          trainable: false,
          dtype: 'float32',
          fingerprint: (format) => baseFingerprint(folder, format, onHash),
        });
        slices.push({ adapter, slices: loaded.slices, saved: loaded.saved });
        notices.push(...loaded.notices, ...promptNotices(adapter, loaded.encoding));
        for (const [name, parameter] of adaptedParameters(model, loaded))
          if (!name.includes('.lora_')) this.#replace(name, parameter.data);
        for (const [name, , lora] of loraAdapters(model)) this.#add(`${name}.weight`, lora);
        removeLora(model);
      }
      const chosen = slicesOfAdapters(slices, config.slice);
      this.slice = chosen.slice;
      this.notices = [...notices, ...chosen.notices, ...replacedModules(slices)];
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    } finally {
      removeLora(model);
      model.dispose();
    }
  }

  /** Names of the weights that adapters changed. */
  get changed(): ReadonlySet<string> {
    return new Set(this.#changes.keys());
  }

  /** Rows from `start` of a weight in float32, (count, width): its first size counts as rows. In the caller's scope. */
  rows(name: string, start: number, count: number): Tensor {
    const [rows, ...rest] = this.shapes.get(name)!;
    const width = rest.reduce((product, size) => product * size, 1);
    const { replaced, parts = [] } = this.#changes.get(name) ?? {};
    const stored =
      replaced === undefined
        ? readRows(this.#base, name, [start, count, width])
        : ops.narrow(ops.reshape(replaced, [rows!, width]), 0, start, count);
    return parts.reduce((sum, part) => withPart(sum, part, start, count), ops.to(stored, 'float32'));
  }

  #replace(name: string, tensor: Tensor): void {
    this.#forget(name);
    this.#changes.set(name, { replaced: alias(tensor), parts: [] });
  }

  #add(name: string, { loraA, loraB, scaling, magnitude }: LoraAdapter): void {
    const part: LowRank = {
      a: alias(loraA.weight.data),
      b: alias(loraB.weight.data),
      scaling,
      magnitude: magnitude && alias(magnitude.data),
    };
    const { replaced, parts = [] } = this.#changes.get(name) ?? {};
    this.#changes.set(name, { replaced, parts: [...parts, part] });
  }

  #forget(name: string): void {
    const { replaced, parts = [] } = this.#changes.get(name) ?? {};
    replaced?.dispose();
    for (const { a, b, magnitude } of parts) {
      a.dispose();
      b.dispose();
      magnitude?.dispose();
    }
    this.#changes.delete(name);
  }

  [Symbol.dispose](): void {
    for (const name of [...this.#changes.keys()]) this.#forget(name);
  }
}

/** Rows as stored, (count, width), read into memory of their own. */
function readRows(
  source: TensorSource,
  name: string,
  [start, count, width]: readonly [number, number, number],
): Tensor {
  const { dtype } = source.infos.get(name)!;
  const size = width * DTYPES[dtype].bytes;
  const bytes = new Uint8Array(count * size);
  source.readBytes(name, start * size, bytes);
  return fromTypedArray(bytes, [count, width], dtype);
}

function withPart(rows: Tensor, { a, b, scaling, magnitude }: LowRank, start: number, count: number): Tensor {
  return scope(() => {
    const sum = ops.addmm(rows, ops.narrow(b, 0, start, count), a, { alpha: scaling });
    if (magnitude === undefined) return sum;
    const norms = ops.linalgVectorNorm(sum, 2, [1], true);
    return ops.mul(sum, ops.div(ops.unsqueeze(ops.narrow(magnitude, 0, start, count), 1), norms));
  });
}
