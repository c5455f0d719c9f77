/**
 * The memory that a training takes. By category, each with its arithmetic. One step is rehearsed without memory (rehearsal.ts);
 * how much of it a rank has to hold follows from the number of ranks and the stage. All lines are data: text and JSON print the same.
 */
import type { ModelConfig } from '@minicpm-finetune/processor';
import type { RunConfig } from '@minicpm-finetune/run';
import type { DeviceName } from '../../engine/machine.js';
import { stageOf } from '../../parallel/sharding.js';
import { SMALL_UNIT, shareOf } from '../../parallel/units.js';
import {
  asideNumbers,
  isAside,
  isTableOfRows,
  leavingBytes,
  type Places,
  placesOf,
  updatedAtOnce,
  visitingBytes,
  type Where,
} from './offload-bytes.js';
import { type Moment, type Rehearsal, rehearse, type Unit } from './rehearsal.js';
import { type BatchShape, picturesOf, tokensOf } from './shape.js';

/** How the states of a training are shared: 0 not at all, 1 optimizer, 2 gradients too, 3 weights too. */
type Stage = 0 | 2 | 3;

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
export const ERROR = 0.15;
/** The same of float16 on a CPU, whose copies in float32 are estimated too large. */
export const FLOAT16_CPU_ERROR = 0.4;
/** Stated, not measured: what CUDA keeps on a device for itself, and NCCL's buffers. */
const CONTEXT = 500 * 2 ** 20;
const NCCL = 500 * 2 ** 20;
/** Node, libtorch and the buffers of small tensors in a process, and a thread that reads records, as measured. */
const PROCESS = 250 * 2 ** 20;
const LOADER_THREAD = 60 * 2 ** 20;
/** Gathered and scattered pieces. */
const PIECE = 16 * 2 ** 20;
/** Pinned buffers between host memory and a device, of each process that offloads (packages/torch, Transfer). */
const TRANSFER = 2 * 64 * 2 ** 20;

const share = (numbers: number, world: number): number => (world === 1 ? numbers : shareOf(numbers, world));
const sum = (numbers: Iterable<number>): number => [...numbers].reduce((all, one) => all + one, 0);
const line = (category: string, terms: readonly (Term | false)[]): Line => {
  const real = terms.filter((term): term is Term => term !== false && term.count * term.bytes !== 0);
  return { category, bytes: sum(real.map(({ count, bytes }) => count * bytes)), terms: real };
};

/** The stage of so many ranks. */
const stageFor = ({ engine, lora }: RunConfig, size: number, { params }: Places): Stage =>
  stageOf(engine.zero_stage, { size, lora: lora.use_lora, offloaded: params !== 'device' }) ?? 0;

interface Settings {
  readonly config: RunConfig;
  readonly device: DeviceName;
  readonly world: number;
  readonly stage: Stage;
  readonly places: Places;
  readonly shape: BatchShape;
}

/** The numbers of the optimizer that a rank has, of all. */
function optimizerShare({ units, trainedNumbers }: Rehearsal, { world, stage }: Settings): number {
  if (stage === 0 || trainedNumbers === 0) return 1;
  return sum(units.map(({ trained }) => share(trained, world))) / trainedNumbers;
}

/** The numbers of weights that a rank keeps, of all. */
function keptShare(units: readonly Unit[], of: 'trained' | 'frozen', settings: Settings): number {
  const { world, stage, device } = settings;
  const mapped = of === 'frozen' && device === 'cpu'; // one page cache for all ranks
  const kept = units.map((unit) => {
    if (isAside(unit, of, settings)) return 0;
    return stage < 3 || mapped || unit.bytes < SMALL_UNIT ? unit[of] : share(unit[of], world);
  });
  return sum(kept) / Math.max(1, sum(units.map((unit) => unit[of])));
}

function weightsLine({ weights, units }: Rehearsal, settings: Settings): Line {
  const { dtype } = settings.config.precision;
  const each = dtype === 'float32' ? 4 : 2;
  const [trained, frozen] = [keptShare(units, 'trained', settings), keptShare(units, 'frozen', settings)];
  return line('weights', [
    { what: `trained numbers in ${dtype}`, count: (weights.trained / each) * trained, bytes: each },
    { what: `frozen numbers in ${dtype}`, count: (weights.frozen / each) * frozen, bytes: each },
    weights.compacted > 0 && {
      what: `frozen numbers in ${settings.config.lora.q_lora_type}`,
      count: weights.compacted * frozen,
      bytes: weights.compact / weights.compacted,
    },
  ]);
}

/** The two units, one after the other, that take most when they are gathered. */
function gatheredPair(units: readonly Unit[], { device }: Settings): number {
  const large = units.filter(({ bytes, trained }) => bytes >= SMALL_UNIT && (device !== 'cpu' || trained > 0));
  return Math.max(0, ...large.map(({ bytes }, i) => bytes + (large[i + 1]?.bytes ?? 0)));
}

function gradientBytes(moment: Moment, rehearsal: Rehearsal, { config, world, stage }: Settings): number {
  if (config.engine.fused_backward) return moment.phase === 'update' ? 0 : moment.own;
  const alone = world === 1 && config.batch.gradient_accumulation_steps === 1; // the sum of one is in the type of the weights at last
  if (stage < 2 || (alone && moment.phase === 'update')) return sum(moment.gradients.values());
  const trained = new Map(rehearsal.units.map((unit) => [unit.name, unit.trained]));
  const done = [...moment.gradients].filter(([unit]) => unit !== moment.block);
  const summed = ([unit, bytes]: [string, number]): number =>
    isTableOfRows(unit, rehearsal) ? bytes : 4 * share(trained.get(unit) ?? 0, world);
  return moment.own + sum(done.map(summed));
}

/** Bytes that a moment takes beside weights, states and gradients. */
function workingBytes(moment: Moment, rehearsal: Rehearsal, settings: Settings): number {
  const { fused_backward: fused } = settings.config.engine;
  if (moment.phase === 'update') {
    if (fused) return 0;
    if (settings.places.optimizer !== 'device')
      return settings.device === 'cpu' && rehearsal.copied > 0 ? 4 * updatedAtOnce(rehearsal, settings) : 0;
    const sums = settings.stage < 2 ? 0 : rehearsal.copied; // sums of several ranks are float32 already
    return Math.max(0, moment.working - sums) * optimizerShare(rehearsal, settings);
  }
  if (settings.places.params !== 'device')
    return Math.max(moment.working, moment.kept + leavingBytes(moment, rehearsal, settings));
  if (!fused || moment.phase === 'forward' || rehearsal.masters === 0) return moment.working;
  if (settings.places.optimizer !== 'device' && settings.device !== 'cpu') return moment.working; // the copy is in host memory
  const { trained = 0 } = rehearsal.units.find(({ name }) => name === moment.block) ?? {};
  return Math.max(moment.working, moment.kept + 4 * trained); // the update's gradient in float32
}

const describeMoment = ({ phase, block }: Moment): string => (phase === 'update' ? phase : `${phase} of ${block}`);

/** An estimate from a rehearsed step. */
function estimateOf(rehearsal: Rehearsal, settings: Settings): Estimate {
  const { config, world, stage, device, shape } = settings;
  const peak = rehearsal.steps.reduce((most, one) => (totalOf(one) > totalOf(most) ? one : most));
  function totalOf(moment: Moment): number {
    return workingBytes(moment, rehearsal, settings) + gradientBytes(moment, rehearsal, settings);
  }
  const portion = optimizerShare(rehearsal, settings);
  const working = workingBytes(peak, rehearsal, settings);
  const kept = Math.min(peak.kept, working);
  const tokens = tokensOf(shape);
  const { masters, moments, rows, batch } = rehearsal;
  const momentBytes = config.precision.dtype === 'bfloat16' && !config.precision.bf16_master_weights ? 2 : 4;
  const here = settings.places.optimizer === 'device' ? portion : 0;
  const states = { what: 'moments', count: (moments / momentBytes) * here, bytes: momentBytes };
  const ofRows = rows === null ? '' : ` (token table: rows of ${rows.seen} tokens of ${rows.of}; more as more occur)`;
  const aside = settings.places.params !== 'device';
  const gathered = world > 1 && stage === 3 ? gatheredPair(rehearsal.units, settings) : 0;
  const gathers = aside ? visitingBytes(rehearsal, settings) : gathered;
  const lines = [
    weightsLine(rehearsal, settings),
    line('masters', [{ what: 'weights in float32', count: (masters / 4) * here, bytes: 4 }]),
    line('moments', [{ ...states, what: `numbers of both moments${ofRows}` }]),
    line('gradients', [
      { what: 'bytes of gradients at that moment', count: gradientBytes(peak, rehearsal, settings), bytes: 1 },
    ]),
    line('activations', [{ what: 'tokens', count: tokens, bytes: kept / tokens }]),
    line('computing', [{ what: 'bytes in that part of the step', count: working - kept, bytes: 1 }]),
    line('batch', [
      { what: 'micro-batches on the device', count: config.batch.gradient_accumulation_steps, bytes: batch },
    ]),
    line('communication', [
      { what: aside ? 'bytes of blocks that visit' : 'bytes of two gathered blocks', count: gathers, bytes: 1 },
      world > 1 && { what: 'pieces that travel', count: 2, bytes: PIECE },
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
    frozenBytes: rehearsal.weights.frozen * keptShare(rehearsal.units, 'frozen', settings),
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
  const [width, momentWidth] = [dtype === 'float32' ? 4 : 2, dtype === 'bfloat16' && !masterWeights ? 2 : 4];
  const weights = (of: 'trained' | 'frozen'): number =>
    places.params === where ? world * asideNumbers(rehearsal, of, settings) : 0;
  const states = places.optimizer === where ? world * optimizerShare(rehearsal, settings) : 0;
  const copied = device !== 'cpu' && places.params === 'device' && rehearsal.masters === 0;
  const travels = device !== 'cpu' && where === 'host' && (places.optimizer !== 'device' || places.params !== 'device');
  return [
    line('weights', [
      { what: `trained numbers in ${dtype}`, count: weights('trained'), bytes: width },
      { what: `frozen numbers in ${dtype}`, count: weights('frozen'), bytes: width },
    ]),
    line('masters', [
      { what: 'weights in float32', count: (rehearsal.masters / 4) * states, bytes: 4 },
      copied && { what: `trained numbers in ${dtype}`, count: rehearsal.trainedNumbers * states, bytes: width },
    ]),
    line('moments', [
      { what: 'numbers of both moments', count: (rehearsal.moments / momentWidth) * states, bytes: momentWidth },
    ]),
    line('computing', [
      travels && {
        what: 'numbers that are updated at once',
        count: world * updatedAtOnce(rehearsal, settings),
        bytes: 4,
      },
    ]),
    line('staging', [travels && { what: 'pinned buffers', count: world, bytes: TRANSFER }]),
  ];
}

/** Rehearses a configuration once and estimates it for each number of devices. */
export function estimate(
  config: RunConfig,
  read: ModelConfig,
  shape: BatchShape,
  { device, worlds }: { device: DeviceName; worlds: readonly number[] },
): Estimate[] {
  const rehearsal = rehearse(config, read, shape, device);
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
