/**
 * Stores the output of a frozen vision tower for reuse. A picture is computed once; its features (and if the resampler
 * is frozen, too, its tokens) are reused in later epochs and runs.
 *
 * A stored value is found by the content of the picture as it was encoded (bytes, shape, grid), below a fingerprint of everything that made
 * it: weights, sizes, type, libtorch's version. So nothing has to be known of slicing flags, and nothing stale can be found. Not for 2.5,
 * whose pictures influence each other in a batch. Not here: files (vision-store.ts).
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { KnownPictures, MiniCPMV, Picture } from '@minicpm-finetune/minicpm-v';
import { countTokens } from '@minicpm-finetune/processor';
import { cacheFolder, type RunConfig } from '@minicpm-finetune/run';
import { about, copyTo, fromTypedArray, noGrad, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { VisionStore } from './vision-store.js';

export interface VisionCacheOptions {
  /** Folder of the stored values. */
  readonly folder: string;
  /** Most bytes of the folder. */
  readonly limit: number;
  /** Whether older files make room for new ones; true unless given. */
  readonly evicts?: boolean;
  /** Where features are computed, though weights may come there only then: where the weights are, unless given. */
  readonly device?: string;
  readonly notice: (message: string) => void;
}

const frozen = (module: MiniCPMV['vpm'] | MiniCPMV['connector']): boolean =>
  [...module.namedParameters()].every(([, { requiresGrad }]) => !requiresGrad);

/** The frozen part of the vision side, whose output may be stored; null: none. Training flags have to be set before. */
export function storableLevel(model: MiniCPMV): KnownPictures['level'] | null {
  if (model.version.positions !== 'grid' || !frozen(model.vpm)) return null;
  return frozen(model.connector) && !model.version.frameGroups ? 'tokens' : 'features';
}

/** The cache that `--cache_vision` asks for, for a run of `epochs`; null: none. */
export function openVisionCache(
  { engine }: RunConfig,
  model: MiniCPMV,
  { epochs, ...options }: { readonly epochs: number } & Pick<VisionCacheOptions, 'evicts' | 'device' | 'notice'>,
): VisionCache | null {
  const { cache_vision: asked, cache_vision_limit: limit } = engine;
  if (asked === 'off' || (asked === 'auto' && epochs <= 1)) return null;
  if (storableLevel(model) === null) {
    if (asked !== 'auto') options.notice(`--cache_vision ${asked}: without effect: ${whyNot(model)}.`);
    return null;
  }
  return new VisionCache(model, {
    ...options,
    folder: asked === 'auto' ? join(cacheFolder(), 'vision') : asked,
    limit,
  });
}

const whyNot = ({ version }: MiniCPMV): string =>
  version.positions === 'grid'
    ? 'the vision tower trains, so its features change'
    : `in ${version.title} the pictures of a batch influence each other`;

export class VisionCache {
  /** Pictures asked for, and how many of them were stored. */
  pictures = 0;
  hits = 0;
  readonly level: KnownPictures['level'];
  readonly #model: MiniCPMV;
  readonly #store: VisionStore;

  /** @throws Error if the vision tower trains: see `storableLevel`. */
  constructor(model: MiniCPMV, { folder, device = 'cpu', ...options }: VisionCacheOptions) {
    const level = storableLevel(model);
    if (level === null) throw new Error('Expected a frozen vision tower for stored features');
    this.level = level;
    this.#model = model;
    this.#store = new VisionStore({ ...options, root: folder, space: fingerprint(model, level, device) });
  }

  /** Values of pictures, read or else computed and stored: in the caller's scope. */
  lookup(pictures: readonly Picture[]): KnownPictures {
    const keys = pictures.map(keyOf);
    const values = new Map<string, Tensor>();
    const missing = new Map<string, Picture>();
    for (const [i, key] of keys.entries()) {
      if (values.has(key) || missing.has(key)) continue;
      const shape = this.#shapeOf(pictures[i]!);
      const dtype = this.#dtype;
      const bytes = this.#store.get(key, shape[0] * shape[1] * (dtype === 'float32' ? 4 : 2));
      if (bytes === null) missing.set(key, pictures[i]!);
      else values.set(key, fromTypedArray(bytes, shape, dtype, pictures[i]!.pixels.device));
    }
    this.pictures += pictures.length;
    this.hits += keys.filter((key) => values.has(key)).length;
    for (const [i, value] of this.#compute([...missing.values()]).entries()) {
      const key = [...missing.keys()][i]!;
      values.set(key, value);
      const bytes = new Uint8Array(value.nbytes);
      copyTo(value, 'cpu').readBytes(0, bytes);
      this.#store.put(key, bytes);
    }
    return { level: this.level, values: keys.map((key) => values.get(key)!) };
  }

  #compute(pictures: readonly Picture[]): Tensor[] {
    if (pictures.length === 0) return [];
    return noGrad(() => {
      const model = this.#model;
      const values = this.level === 'tokens' ? model.pictureTokens(pictures) : model.visionFeatures(pictures);
      return values.map((value) => ops.contiguous(value));
    });
  }

  get #dtype() {
    return [...this.#model.vpm.namedParameters()][0]![1].data.dtype;
  }

  #shapeOf({ rows, cols }: Picture): [number, number] {
    const { pictureTokens, llm, vision } = this.#model.config;
    const grid = { rows, cols };
    return this.level === 'tokens'
      ? [countTokens(pictureTokens, grid), llm.hiddenSize]
      : [this.#model.featuresOf(grid), vision.hiddenSize];
  }
}

const CHUNK = 64 << 20;

function hashTensor(hash: ReturnType<typeof createHash>, tensor: Tensor): void {
  scope(() => {
    const whole = ops.contiguous(copyTo(ops.detach(tensor), 'cpu'));
    for (let offset = 0; offset < whole.nbytes; offset += CHUNK) {
      const bytes = new Uint8Array(Math.min(CHUNK, whole.nbytes - offset));
      whole.readBytes(offset, bytes);
      hash.update(bytes);
    }
  });
}

function keyOf({ pixels, rows, cols }: Picture): string {
  const hash = createHash('sha256').update(JSON.stringify([pixels.dtype, pixels.shape, rows, cols]));
  hashTensor(hash, pixels);
  return hash.digest('hex');
}

/** A device with its number, as tensors name theirs. */
const deviceName = (device: string): string => scope(() => ops.empty([0], { device }).device);

/** Everything that determines the features of a picture. */
function fingerprint(model: MiniCPMV, level: KnownPictures['level'], computing: string): string {
  const { vision, pictureTokens, merger, version } = model.config;
  const { batchSize: _, ...sizes } = vision; // only how many at once
  const { device: own } = [...model.vpm.namedParameters()][0]![1].data;
  const device = own === 'cpu' ? deviceName(computing) : own; // devices round in their own ways
  const made = [3, about().version, device, version, sizes, pictureTokens, merger, level];
  const hash = createHash('sha256').update(JSON.stringify(made));
  for (const module of level === 'tokens' ? [model.vpm, model.connector] : [model.vpm]) {
    for (const [name, { data }] of module.namedParameters()) {
      hash.update(JSON.stringify([name, data.dtype, data.shape]));
      hashTensor(hash, data);
    }
  }
  return hash.digest('hex').slice(0, 32);
}
