/**
 * The memory that a training takes. By category, each with its arithmetic. One step is rehearsed without memory (rehearsal.ts);
 * how much of it a rank has to hold follows from the number of ranks and the stage. All lines are data: text and JSON print the same.
 */
import type { ModelConfig } from '@minicpm-finetune/processor';
import type { RunConfig } from '@minicpm-finetune/run';
import type { DeviceName } from '../../engine/machine.js';
import { type Stage, stageOf } from '../../parallel/sharding.js';
import type { Moment } from './moments.js';
import { type Places, placesOf, updatedAtOnce, type Where } from './offload-bytes.js';
import {
  answersMoment,
  asideNumbers,
  gradientBytes,
  keptWeights,
  momentBytes,
  optimizerShare,
  type RankSettings,
  transitAt,
  workingBytes,
} from './rank-bytes.js';
import { type Rehearsal, rehearse } from './rehearsal.js';
import { type BatchShape, picturesOf, tokensOf } from './shape.js';

export interface Term {
  /** What is counted, such as "numbers in float32". */
  readonly what: string;
  readonly count: number;
  /** Bytes of each. */
  readonly bytes: number;
}

export interface Line {
  readonly category: string;
  readonly bytes: number;
  /** They add up to `bytes`. */
  readonly terms: readonly Term[];
}

export interface Estimate {
  readonly world: number;
  readonly stage: Stage;
  /** Of one device (on the CPU: of one process), at the moment of the step that takes most. */
  readonly device: readonly Line[];
  readonly deviceBytes: number;
  /** Of that, frozen weights in the type of the training. */
  readonly frozenBytes: number;
  /** When that is, such as "backward of llm.model.layers.3". */
  readonly moment: string;
  /** Of one host with all ranks on it, beside what their devices take. Page cache of mapped weights is not counted. */
  readonly host: readonly Line[];
  readonly hostBytes: number;
  /** Of the files of one host with all ranks on it, where states are offloaded to a folder. */
  readonly disk: readonly Line[];
  readonly diskBytes: number;
  readonly trainedNumbers: number;
  readonly totalNumbers: number;
  readonly tokens: number;
  readonly pictures: number;
}

/** How far an estimate may be off: LOG.md has the measurements. */
export const ERROR = 0.1;
/** The moment of answers, for which each rank gathers the whole model. */
export const ANSWERS = 'answers of an evaluation, with all weights';
/** Stated, not measured: what CUDA keeps on a device for itself, and NCCL's buffers. */
const CONTEXT = 500 * 2 ** 20;
const NCCL = 500 * 2 ** 20;
/** Node, libtorch and the buffers of small tensors in a process, and a thread that reads records, as measured. */
const PROCESS = 250 * 2 ** 20;
const LOADER_THREAD = 60 * 2 ** 20;
/** Pinned buffers between host memory and a device, of each process that offloads (packages/torch, Transfer). */
const TRANSFER = 2 * 64 * 2 ** 20;

const sum = (numbers: Iterable<number>): number => [...numbers].reduce((all, one) => all + one, 0);
const line = (category: string, terms: readonly (Term | false)[]): Line => {
  const real = terms.filter((term): term is Term => term !== false && term.count * term.bytes !== 0);
  return { category, bytes: sum(real.map(({ count, bytes }) => count * bytes)), terms: real };
};

/** The stage of so many ranks. */
const stageFor = ({ engine, lora }: RunConfig, size: number, { params }: Places): Stage =>
  stageOf(engine.zero_stage, { size, lora: lora.use_lora, offloaded: params !== 'device' }) ?? 0;

interface Settings extends RankSettings {
  readonly shape: BatchShape;
}

function weightsLine(rehearsal: Rehearsal, { config, ...settings }: Settings): Line {
  const { weights } = rehearsal;
  const { dtype } = config.precision;
  const each = dtype === 'float32' ? 4 : 2;
  const kept = keptWeights(rehearsal, { config, ...settings });
  return line('weights', [
    { what: `trained numbers in ${dtype}`, count: (weights.trained / each) * kept.trained, bytes: each },
    { what: `frozen numbers in ${dtype}`, count: (weights.frozen / each) * kept.frozen, bytes: each },
    weights.compacted > 0 && {
      what: `frozen numbers in ${config.lora.q_lora_type}`,
      count: weights.compacted * kept.compact,
      bytes: weights.compact / weights.compacted,
    },
  ]);
}

const describeMoment = ({ phase, block }: Moment): string =>
  phase === 'update' ? phase : phase === 'answers' ? ANSWERS : `${phase} of ${block}`;

/** An estimate from a rehearsed step. */
function estimateOf(rehearsal: Rehearsal, settings: Settings): Estimate {
  const { config, world, stage, device, shape, places } = settings;
  const answers = answersMoment(rehearsal, settings);
  const peak = [...rehearsal.steps, ...(answers === null ? [] : [answers])].reduce((most, one) =>
    totalOf(one) > totalOf(most) ? one : most,
  );
  function totalOf(moment: Moment): number {
    const transit = transitAt(moment, rehearsal, settings);
    const own = workingBytes(moment, rehearsal, settings) + gradientBytes(moment, rehearsal, settings);
    return own + transit.weights + transit.gradients;
  }
  const here = places.optimizer === 'device' ? 1 : 0;
  const portion = here * optimizerShare(rehearsal, settings);
  const working = workingBytes(peak, rehearsal, settings);
  const kept = Math.min(peak.kept, working);
  const tokens = tokensOf(shape);
  const { masters, rows, batch, reference } = rehearsal;
  const width = config.precision.dtype === 'float32' ? 4 : 2;
  const each = config.precision.dtype === 'bfloat16' && !config.precision.bf16_master_weights ? 2 : 4;
  const ofRows = rows === null ? '' : ` (token table: rows of ${rows.seen} tokens of ${rows.of}; more as more occur)`;
  const transit = transitAt(peak, rehearsal, settings);
  const lines = [
    weightsLine(rehearsal, settings),
    line('reference', [
      { what: `copied numbers in ${config.precision.dtype}`, count: reference / width, bytes: width },
    ]),
    line('masters', [{ what: 'weights in float32', count: (masters / 4) * portion, bytes: 4 }]),
    line('moments', [
      {
        what: `numbers of both moments${ofRows}`,
        count: (here * momentBytes(rehearsal, settings)) / each,
        bytes: each,
      },
    ]),
    line('gradients', [
      { what: 'bytes of gradients at that moment', count: gradientBytes(peak, rehearsal, settings), bytes: 1 },
    ]),
    line('activations', [{ what: 'tokens', count: tokens, bytes: kept / tokens }]),
    line('computing', [{ what: 'bytes in that part of the step', count: working - kept, bytes: 1 }]),
    line('batch', [
      { what: 'micro-batches on the device', count: config.batch.gradient_accumulation_steps, bytes: batch },
    ]),
    line('communication', [
      { what: 'bytes of gathered blocks', count: transit.weights, bytes: 1 },
      { what: "bytes of a block's gradients on their way", count: transit.gradients, bytes: 1 },
    ]),
    line('context', [
      device === 'cuda' && { what: 'CUDA context (stated)', count: 1, bytes: CONTEXT },
      device === 'cuda' && world > 1 && { what: 'NCCL (stated)', count: 1, bytes: NCCL },
    ]),
  ];
  const host = [...hostLines(settings, batch), ...asideLines('host', rehearsal, settings)];
  const disk = asideLines('disk', rehearsal, settings);
  return {
    ...{ world, stage, device: lines, deviceBytes: sum(lines.map(({ bytes }) => bytes)) },
    frozenBytes: rehearsal.weights.frozen * keptWeights(rehearsal, settings).frozen,
    ...{ moment: describeMoment(peak), host, hostBytes: sum(host.map(({ bytes }) => bytes)) },
    ...{ disk, diskBytes: sum(disk.map(({ bytes }) => bytes)) },
    ...{ trainedNumbers: rehearsal.trainedNumbers, totalNumbers: rehearsal.totalNumbers },
    ...{ tokens, pictures: picturesOf(shape) },
  };
}

function hostLines({ config, world, device }: Settings, batch: number): Line[] {
  const threads = config.loader.dataloader_num_workers ?? 1;
  return [
    line('process', [{ what: 'processes', count: world, bytes: PROCESS }]),
    line('loader', [{ what: 'threads that read records', count: world * threads, bytes: LOADER_THREAD }]),
    line('staging', [device === 'cuda' && { what: 'pinned batches', count: 2 * world, bytes: batch }]),
  ];
}

/** States of all ranks that are in host memory or on its disk, and what their way to the device takes. */
function asideLines(where: Where, rehearsal: Rehearsal, settings: Settings): Line[] {
  const { config, device, world, places } = settings;
  const { dtype, bf16_master_weights: masterWeights } = config.precision;
  const [width, each] = [dtype === 'float32' ? 4 : 2, dtype === 'bfloat16' && !masterWeights ? 2 : 4];
  const weights = (of: 'trained' | 'frozen'): number =>
    places.params === where ? world * asideNumbers(rehearsal, of, settings) : 0;
  const ranks = places.optimizer === where ? world : 0;
  const portion = ranks * optimizerShare(rehearsal, settings);
  const copied = device !== 'cpu' && places.params === 'device' && rehearsal.masters === 0;
  const travels = device !== 'cpu' && where === 'host' && (places.optimizer !== 'device' || places.params !== 'device');
  return [
    line('weights', [
      { what: `trained numbers in ${dtype}`, count: weights('trained'), bytes: width },
      { what: `frozen numbers in ${dtype}`, count: weights('frozen'), bytes: width },
    ]),
    line('masters', [
      { what: 'weights in float32', count: (rehearsal.masters / 4) * portion, bytes: 4 },
      copied && { what: `trained numbers in ${dtype}`, count: rehearsal.trainedNumbers * portion, bytes: width },
    ]),
    line('moments', [
      { what: 'numbers of both moments', count: (ranks * momentBytes(rehearsal, settings)) / each, bytes: each },
    ]),
    line('computing', [
      travels && { what: 'numbers that are updated at once', count: world * updatedAtOnce(rehearsal, world), bytes: 4 },
    ]),
    line('staging', [travels && { what: 'pinned buffers', count: world, bytes: TRANSFER }]),
  ];
}

export interface EstimateOptions {
  readonly device: DeviceName;
  readonly worlds: readonly number[];
  /** Of the run; those of the configuration unless given. */
  readonly epochs?: number;
}

/** Rehearses a configuration once and estimates it for each number of devices. */
export function estimate(
  config: RunConfig,
  read: ModelConfig,
  shape: BatchShape,
  { device, worlds, epochs = config.schedule.num_train_epochs }: EstimateOptions,
): Estimate[] {
  const rehearsal = rehearse(config, read, shape, { device, epochs });
  const places = placesOf(config, device);
  return worlds.map((world) =>
    estimateOf(rehearsal, { config, device, world, places, stage: stageFor(config, world, places), shape }),
  );
}

/**
 * Bytes that have to be there. On the CPU these are those of the process; frozen weights of the file's own type are pages of the file, which
 * the system may drop and read again.
 */
export function neededBytes(
  { deviceBytes, frozenBytes }: Estimate,
  { precision }: RunConfig,
  read: ModelConfig,
  device: DeviceName,
): number {
  if (device !== 'cpu') return deviceBytes;
  return deviceBytes + PROCESS - (read.dtype === precision.dtype ? frozenBytes : 0);
}
