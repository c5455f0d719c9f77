/**
 * Merges adapters into the base weights. In memory, or as a checkpoint that needs no adapter. Not here: what an adapter
 * computes (lora.ts), the formats (folder.ts, weights.ts). Reference: PEFT's `merge_and_unload`; the arithmetic is
 * float32 whatever the stored types, and rounds once.
 */
import { countTokens, readConfig } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import {
  type DType,
  fromTypedArray,
  keep,
  type Module,
  noGrad,
  ops,
  scope,
  type TensorSource,
} from '@minicpm-finetune/torch';
import type { HashProgress } from '../checkpoint/content.js';
import { inNewFolder } from '../checkpoint/new-folder.js';
import { loadWeights, saveCheckpoint, type WeightSource } from '../checkpoint/weights.js';
import { MiniCPMV } from '../model/minicpm-v.js';
import { runPlan } from '../model/plan.js';
import { baseFingerprint } from './checksums.js';
import { encodingOfAdapters, promptNotices, type TrainedEncoding } from './encoding.js';
import { type LoadedAdapter, loadAdapter } from './folder.js';
import { freeze, loraAdapters, removeLora } from './lora.js';
import type { BaseFingerprint } from './manifest.js';
import { slicesOfAdapters, type TrainedSlices } from './slices.js';
import { type TrainedVideos, videosOfAdapters } from './videos.js';

/**
 * Merges the adapters on a model into its weights and takes them off. Everything is frozen then. Returns how many weights have other
 * numbers than before: where the change is below the rounding of their type, they do not.
 */
export function mergeLora(model: Module): number {
  freeze(model);
  let changed = 0;
  for (const [, linear, adapter] of loraAdapters(model)) {
    const merged = adapter.mergedWeight(linear.weight.data);
    if (!ops.equal(merged, linear.weight.data)) changed++;
    linear.weight.data = keep(merged);
  }
  removeLora(model);
  return changed;
}

/**
 * Merges an adapter that `loadAdapter` put on a model. Returns its notices, with one more where the merge left every weight as it was.
 *
 * @param cure what helps against the rounding.
 */
export function mergeLoaded(folder: string, model: MiniCPMV, loaded: LoadedAdapter, cure: string): readonly string[] {
  const { dtype } = llmWeight(model);
  const changed = mergeLora(model);
  if (changed > 0 || !loaded.changes || loaded.saved.length > 0) return loaded.notices;
  const rounded = `THE MERGE CHANGES NOTHING: all changes are below the rounding of ${dtype}, the type of the weights: ${cure}.`;
  return [...loaded.notices, `adapter ${folder}: ${rounded}`];
}

/** A sentence for each adapter whose saved modules an earlier one has saved, too: only the last counts. */
export function replacedModules(
  adapters: readonly { readonly adapter: string; readonly saved: readonly string[] }[],
): string[] {
  return adapters.flatMap(({ adapter, saved }, i) => {
    const both = saved.filter((name) => adapters.slice(0, i).some((earlier) => earlier.saved.includes(name)));
    if (both.length === 0) return [];
    return [`adapter ${adapter}: what it saved whole replaces that of an earlier adapter: ${both.join(', ')}.`];
  });
}

export interface MergeOptions {
  /** Folder of the base checkpoint. */
  readonly model: string;
  /** Adapter folders. Each is applied on top of the previous result; a later one's saved modules replace an earlier one's. */
  readonly adapters: readonly string[];
  /** Folder to make. It must not exist, or be empty. */
  readonly output: string;
  /** Type of the saved weights; absent: as stored in the base. */
  readonly dtype?: DType;
  readonly maxShardBytes?: number;
  /** The base's weights are hashed to know whether the adapters are theirs; not called where the hash is remembered. */
  readonly onHash?: HashProgress;
}

/** The result of checking a merged checkpoint. */
export interface MergeReport {
  readonly tensors: number;
  /** Of them, those whose numbers are others than the base's in the type that was saved. */
  readonly changed: number;
  /** Largest difference between the logits of base plus adapters and of the saved checkpoint, relative to the largest logit. */
  readonly logitsError: number;
  /** How the merged model cuts pictures; as the base, unless an adapter was trained otherwise. */
  readonly slices: { readonly max_slice_nums: number; readonly scale_resolution: number };
  /** What a user should know of the adapters and of what the merge made of them. */
  readonly notices: readonly string[];
}

/** The largest change of logits by rounding the merged weights, by the coarsest type involved. */
const TOLERANCE: Partial<Record<DType, number>> = { float32: 1e-4, float16: 2e-2, bfloat16: 1e-1 };
/** Linear attention divides by the size of its heads' outputs, which is small for some tokens: rounding of float32 shows tenfold. */
const LINEAR_ATTENTION = 10;

/**
 * Merges adapters into a checkpoint and saves it, sharded, with config, tokenizer and code. The saved folder is opened again, and its
 * tensors' names and shapes compared with the base's, its logits with those of base and unmerged adapters. It appears under its name only then.
 *
 * @throws UserError for an output folder that has files, or that another process writes, an adapter of another base, or a result that differs.
 */
export function mergeCheckpoint(options: MergeOptions): MergeReport {
  if (options.adapters.length === 0) {
    throw new UserError('Expected at least one adapter to merge but received none.', {
      flag: '--adapter',
      cure: 'Give the folder of an adapter.',
    });
  }
  return inNewFolder(options.output, { what: 'the merged model', flag: '--output_dir' }, (folder, claim) =>
    mergeInto(folder, options, claim),
  );
}

function mergeInto(folder: string, options: MergeOptions, claim: (bytes: number) => void): MergeReport {
  const { dtype, maxShardBytes } = options;
  const config = readConfig(options.model);
  const fingerprint: BaseFingerprint = (format) => baseFingerprint(options.model, format, options.onHash);
  const model = new MiniCPMV(config);
  const notices: string[] = [];
  const trained: (TrainedSlices & TrainedVideos & TrainedEncoding & { readonly saved: readonly string[] })[] = [];
  let source: WeightSource;
  let expected: Float32Array;
  try {
    // float32 is more than the base has: the sum is then rounded to it, not to the base's type first
    source = loadWeights(model, options.model, dtype === 'float32' ? { dtype } : {});
    options.adapters.forEach((adapter) => {
      const loaded = loadAdapter(adapter, model, { trainable: false, fingerprint, dtype: 'float32' });
      trained.push({ adapter, ...loaded });
      expected = probeLogits(model); // the last one counts
      notices.push(
        ...mergeLoaded(adapter, model, loaded, 'merge with --dtype float32, or keep the adapter beside its base'),
      );
    });
    const chosen = slicesOfAdapters(trained, config.slice);
    const videos = videosOfAdapters(trained, config.video);
    const prompts = trained.flatMap((one) => promptNotices(one.adapter, one.encoding));
    notices.push(...chosen.notices, ...videos.notices, ...prompts, ...replacedModules(trained));
    saveCheckpoint(model, folder, {
      source,
      slice: chosen.slice,
      onBytes: claim,
      video: videos.video,
      encoding: encodingOfAdapters(trained, config.encoding),
      ...(dtype === undefined ? {} : { dtype }),
      ...(maxShardBytes === undefined ? {} : { maxShardBytes }),
    });
    const { maxSliceNums, scaleResolution } = chosen.slice;
    return {
      ...verify(folder, source, expected!),
      slices: { max_slice_nums: maxSliceNums, scale_resolution: scaleResolution },
      notices,
    };
  } finally {
    model.dispose();
  }
}

/** How many tensors have other numbers than in the base, once both have the type that was saved. */
function countChanged(merged: TensorSource, base: TensorSource): number {
  return [...base.infos.keys()].filter((name) =>
    scope(() => {
      const [now, before] = [merged.tensor(name), base.tensor(name)];
      return !ops.equal(now, before.dtype === now.dtype ? before : ops.to(before, now.dtype));
    }),
  ).length;
}

/** Opens the saved checkpoint and compares it. */
function verify(
  folder: string,
  source: WeightSource,
  expected: Float32Array,
): Pick<MergeReport, 'tensors' | 'changed' | 'logitsError'> {
  const model = new MiniCPMV(readConfig(folder));
  try {
    const { tensors } = loadWeights(model, folder);
    const wrong = [...source.tensors.infos].filter(
      ([name, { shape }]) => shape.join() !== tensors.infos.get(name)?.shape.join(),
    );
    if (wrong.length > 0 || tensors.infos.size !== source.tensors.infos.size) {
      throw new Error(
        `Expected the tensors of the base in the merged checkpoint but ${wrong[0]?.[0] ?? 'another'} differs`,
      );
    }
    const logits = probeLogits(model);
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const logitsError = logits.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i]!)), 0) / largest;
    const types = new Set([...tensors.infos.values(), ...source.tensors.infos.values()].map(({ dtype }) => dtype));
    const coarsest = Math.max(...[...types].map((dtype) => TOLERANCE[dtype] ?? 0));
    const isHybrid = model.config.llm.linearAttention !== null;
    const tolerance = isHybrid ? Math.max(coarsest, LINEAR_ATTENTION * TOLERANCE.float32!) : coarsest;
    if (!(logitsError <= tolerance)) {
      throw new UserError(
        `Expected the merged model to compute the adapters' logits within ${tolerance} but they differ by ${logitsError.toPrecision(2)} of the largest.`,
        { file: folder, flag: '--dtype', cure: 'Save in float32, or keep the adapter beside its base.' },
      );
    }
    return { tensors: tensors.infos.size, changed: countChanged(tensors, source.tensors), logitsError };
  } finally {
    model.dispose();
  }
}

const PROBE_TEXT = 8;
const PROBE_ROWS = 4;
const PROBE_COLS = 8;

/** Logits of a few positions after an arbitrary picture and arbitrary tokens, the same for all models of one size. */
function probeLogits(model: MiniCPMV): Float32Array {
  const { pictureTokens, batchVision, llm, vision } = model.config;
  const tokens = countTokens(pictureTokens, { rows: PROBE_ROWS, cols: PROBE_COLS });
  const length = tokens + 2 * PROBE_TEXT;
  const ids = BigInt64Array.from({ length }, (_, i) => BigInt((i * 7919 + 13) % llm.vocabSize));
  const patch = vision.patchSize;
  const [rows, cols] = [PROBE_ROWS, PROBE_COLS];
  const shape = batchVision ? [3, patch, patch * rows * cols] : [3, patch * rows, patch * cols];
  const pixels = Float32Array.from({ length: 3 * patch * patch * rows * cols }, (_, i) => Math.sin(i * i));
  const { device } = llmWeight(model);
  return noGrad(() =>
    scope(() => {
      const inputs = {
        inputIds: fromTypedArray(ids, [1, length], 'int64', device),
        positionIds: ops.unsqueeze(ops.arange(0, length, 1, { dtype: 'int64', device }), 0),
        pictures: [[{ pixels: fromTypedArray(pixels, shape, 'float32', device), rows, cols }]],
        imageBounds: [[[PROBE_TEXT, PROBE_TEXT + tokens] as const]],
      };
      const hidden = runPlan(model.plan(inputs, { train: false }));
      return Float32Array.from(model.logits(ops.narrow(hidden, 1, length - PROBE_TEXT, PROBE_TEXT)).toNumbers());
    }),
  );
}

function llmWeight(model: MiniCPMV): { readonly device: string; readonly dtype: DType } {
  return model.llm.model.embedTokens.weight.data;
}
