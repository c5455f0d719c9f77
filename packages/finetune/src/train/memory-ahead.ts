/**
 * Estimates the memory of the largest micro-batch. Before the first step: a run whose longest records come late would
 * otherwise end where they do; on a CPU without a word, since Linux ends the process.
 *
 * An estimate of the language model's activations, rather too small: it only warns. Not here: what is measured
 * (engine/memory-plan.ts), and the message when there is none left (memory-failure.ts).
 */
import { formatBytes } from '@minicpm-finetune/run';
import { deviceMemory } from '@minicpm-finetune/torch';
import type { Sampler } from '../data/sampler.js';
import { cureOf, memoryUse } from './memory-failure.js';
import type { Run } from './run.js';

/** Bytes of a number of the run's type. */
const BYTES = { float32: 4, bfloat16: 2, float16: 2 } as const;

/** A micro-batch of the run. */
interface Micro {
  /** Of the optimizer step, from 1. */
  readonly step: number;
  readonly tokens: number;
}

/** The micro-batch with the most tokens among the steps of one epoch from `start` on. `lengths` shape: (records) */
export function largestMicroBatch(sampler: Sampler, lengths: Uint32Array, start: number, end: number): Micro {
  let largest: Micro = { step: start + 1, tokens: 0 };
  for (let step = start; step < Math.min(end, start + sampler.stepsPerEpoch); step++) {
    for (const batch of sampler.plan(step).batches) {
      const tokens = batch.reduce((sum, record) => sum + lengths[record]!, 0);
      if (tokens > largest.tokens) largest = { step: step + 1, tokens };
    }
  }
  return largest;
}

/** Bytes that the graph of `tokens` tokens keeps in the language model, by its sizes. */
export function activationBytes(
  { config, training }: Pick<Run, 'config'> & { readonly training: Pick<Run['training'], 'model'> },
  tokens: number,
): number {
  const { hiddenSize, intermediateSize, numLayers, numHeads, numKeyValueHeads, headDim } = training.model.config.llm;
  const layer = 4 * hiddenSize + (2 * numHeads + 2 * numKeyValueHeads) * headDim + 2 * intermediateSize;
  const recompute = config.engine.gradient_checkpointing !== false;
  const numbers = recompute ? numLayers * hiddenSize + layer : numLayers * layer;
  return numbers * tokens * BYTES[config.precision.dtype];
}

/** A warning if the largest micro-batch of a run needs more memory than there is; null: it does not. */
export function memoryWarning(run: Run, room: number = roomOf(run)): string | null {
  const { data, derived, state, config } = run;
  const { step, tokens } = largestMicroBatch(data.sampler, data.records.lengths, state.step, derived.totalSteps);
  const use = { ...memoryUse(run, 0), activations: activationBytes(run, tokens) };
  const needed = use.weights + use.optimizer + use.gradients + use.activations;
  if (needed <= room) return null;
  return (
    `THE LARGEST BATCH MAY NOT FIT: step ${step} has ${tokens} tokens at once, for which the run takes about ${formatBytes(needed)} ` +
    `(weights ${formatBytes(use.weights)}, optimizer ${formatBytes(use.optimizer)}, gradients ${formatBytes(use.gradients)}, ` +
    `activations ${formatBytes(use.activations)}), and ${run.training.device} has ${formatBytes(room)}. ${cureOf(config, use, room)}`
  );
}

/** Bytes that the run has and could have. */
function roomOf({ training: { device } }: Run): number {
  if (device === 'cpu') return process.availableMemory() + process.memoryUsage.rss();
  const { free, reserved, total } = deviceMemory(device);
  return total > 0 ? free + reserved : Number.POSITIVE_INFINITY; // not told
}
