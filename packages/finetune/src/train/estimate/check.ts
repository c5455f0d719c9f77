/**
 * Checks the memory of a run before its weights are loaded. A run that cannot fit would otherwise end where its longest records
 * come; on a CPU without a word, since Linux ends the process.
 *
 * Not here: what is measured (engine/memory-plan.ts), and the message when there is none left (memory-failure.ts).
 */
import { totalmem } from 'node:os';
import { type ModelConfig, readConfig } from '@minicpm-finetune/processor';
import { type Derived, formatBytes, type RunConfig, UserError } from '@minicpm-finetune/run';
import { deviceMemory } from '@minicpm-finetune/torch';
import type { Sampler } from '../../data/sampler.js';
import { type DeviceName, deviceNamed } from '../../engine/machine.js';
import type { RunLog } from '../../report/run-log.js';
import type { RunData } from '../open-data.js';
import type { RunState } from '../state.js';
import { summary } from './describe.js';
import { ERROR, type Estimate, estimate, neededBytes } from './estimate.js';
import { cureOf } from './fit.js';
import { type BatchShape, shapeOf } from './shape.js';

/** A micro-batch of a run. */
interface Micro {
  /** Of the optimizer step, from 1. */
  readonly step: number;
  /** Tokens of its records. */
  readonly records: readonly number[];
  readonly tokens: number;
}

/** The micro-batch with the most tokens among the steps of one epoch from `start` on. `lengths` shape: (records) */
export function largestMicroBatch(sampler: Sampler, lengths: Uint32Array, start: number, end: number): Micro {
  let largest: Micro = { step: start + 1, records: [], tokens: 0 };
  for (let step = start; step < Math.min(end, start + sampler.stepsPerEpoch); step++) {
    for (const batch of sampler.plan(step).batches) {
      const records = Array.from(batch, (record) => lengths[record]!);
      const tokens = records.reduce((sum, length) => sum + length, 0);
      if (tokens > largest.tokens) largest = { step: step + 1, records, tokens };
    }
  }
  return largest;
}

/** Bytes of a device. */
export interface Room {
  /** That this process has and could have now. */
  readonly now: number;
  /** If nothing else were there. */
  readonly whole: number;
  /** Of the host's memory for each process, beside a device of another kind. On a CPU, or absent: no limit of its own. */
  readonly host?: Pick<Room, 'now' | 'whole'>;
}

/** @param localSize processes of this machine: on a CPU they share its memory */
export function roomOf(device: DeviceName, localSize: number): Room {
  const limit = process.constrainedMemory();
  const ofHost = (limit > 0 ? Math.min(limit, totalmem()) : totalmem()) / localSize;
  const host = {
    now: Math.min(ofHost, process.availableMemory() / localSize + process.memoryUsage.rss()),
    whole: ofHost,
  };
  if (device === 'cpu') return host;
  const { free, reserved, total } = deviceMemory(device);
  return total > 0
    ? { now: free + reserved, whole: total, host }
    : { now: Number.POSITIVE_INFINITY, whole: Number.POSITIVE_INFINITY, host };
}

/** The estimates of a run. */
export interface RunEstimate {
  /** Of the run; adapters of a resumed one are those of its checkpoint. */
  readonly config: RunConfig;
  readonly read: ModelConfig;
  readonly device: DeviceName;
  readonly largest: Micro;
  /** Processes of the run. */
  readonly worldSize: number;
  readonly epochs: number;
  /** With a picture in each record, as far as its tokens have room. */
  readonly likely: Estimate;
}

/** Records of a micro-batch of another size, from those of the largest one. */
function shapeFor(config: RunConfig, read: ModelConfig, { records }: Micro, images: number): BatchShape {
  const { packing, per_device_train_batch_size: size } = config.batch;
  const longest = [...records].sort((a, b) => b - a);
  return shapeOf(config, read, packing ? longest : longest.slice(0, size), images);
}

/** What is known of a run before its weights are loaded. */
interface OpenedData {
  readonly config: RunConfig;
  /** Of the base. */
  readonly folder: string;
  readonly data: Pick<RunData, 'sampler' | 'records'>;
  readonly state: Pick<RunState, 'step'>;
  readonly derived: Pick<Derived, 'totalSteps' | 'epochs'>;
  /** Folder of the checkpoint that is resumed; null: none. */
  readonly resumeFrom: string | null;
  readonly worldSize: number;
}

/** Estimates a run whose data are known and whose weights are not loaded; null: no record is left to learn from. */
export function estimateRun(opened: OpenedData): RunEstimate | null {
  const { config: given, folder, data, state, derived, resumeFrom, worldSize } = opened;
  const adapters = resumeFrom !== null && given.lora.use_lora;
  const config = adapters ? { ...given, lora: { ...given.lora, lora_weight_path: resumeFrom } } : given;
  const largest = largestMicroBatch(data.sampler, data.records.lengths, state.step, derived.totalSteps);
  if (largest.tokens === 0) return null;
  const read = readConfig(folder);
  const device = deviceNamed(config.engine.device);
  const { epochs } = derived;
  const likely = estimate(config, read, shapeFor(config, read, largest, 1), {
    device,
    worlds: [worldSize],
    epochs,
  })[0]!;
  return { config, read, device, largest, worldSize, epochs, likely };
}

/** Settings of the run that fit, in a sentence. */
export function cureFor(estimated: RunEstimate, room: number, host?: Room['host']): string {
  const { config, read, device, largest, worldSize: world, epochs } = estimated;
  const hostRoom = host === undefined ? {} : { hostRoom: host.now };
  return cureOf(config, read, room, {
    device,
    world,
    epochs,
    ...hostRoom,
    shapeOf: (one) => shapeFor(one, read, largest, 1),
  });
}

/** The same for the memory of the host, where offloaded states are. */
function checkHost(
  { config, device, worldSize, likely }: RunEstimate,
  log: Pick<RunLog, 'warn'>,
  { host }: Room,
): void {
  const needed = likely.hostBytes / worldSize;
  if (device === 'cpu' || host === undefined || needed <= host.now) return;
  const cure = 'Offload to a folder instead: --offload_params FOLDER or --offload_optimizer FOLDER.';
  if (config.engine.memory_check === 'error' && needed > (1 + ERROR) * host.whole)
    throw new UserError(
      `Expected at most ${formatBytes(host.whole)} of host memory for each process but received a run that takes about ` +
        `${formatBytes(needed)} beside the device, for offloaded states among others.`,
      { flag: '--memory_check', cure: `${cure} --memory_check warn starts it all the same.` },
    );
  log.warn(
    'memory',
    `THE HOST MAY HAVE TOO LITTLE MEMORY: beside their devices the processes take about ${formatBytes(needed)} each, and there is ` +
      `${formatBytes(host.now)} for each. ${cure}`,
  );
}

/**
 * Says what the run takes; warns if the device may have too little, and refuses a run that cannot fit, as --memory_check says.
 *
 * @throws UserError if even records without pictures exceed all of the device's memory by more than the estimate may be off
 */
export function checkMemory(estimated: RunEstimate, log: Pick<RunLog, 'reporter' | 'warn'>, room: Room): void {
  const { config, read, device, largest, worldSize, epochs, likely } = estimated;
  log.reporter.notice(summary(likely));
  checkHost(estimated, log, room);
  const needed = neededBytes(likely, config, read, device);
  if (needed <= room.now) return;
  const cure = cureFor(estimated, Math.min(room.now, room.whole), room.host);
  if (config.engine.memory_check === 'error') {
    const worlds = [worldSize];
    const least = estimate(config, read, shapeFor(config, read, largest, 0), { device, worlds, epochs })[0]!;
    const bytes = neededBytes(least, config, read, device);
    if (bytes > (1 + ERROR) * room.whole)
      throw new UserError(
        `Expected at most ${formatBytes(room.whole)}, which ${device} has, but received a run that takes about ${formatBytes(bytes)}, ` +
          `without pictures: ${summary(least)}.`,
        { flag: '--memory_check', cure: `${cure} --memory_check warn starts it all the same.` },
      );
  }
  log.warn(
    'memory',
    `THE LARGEST BATCH MAY NOT FIT: step ${largest.step} has ${largest.tokens} tokens at once, for which the run takes about ` +
      `${formatBytes(needed)}, and ${device} has ${formatBytes(room.now)}. ${cure}`,
  );
}

/** What a run takes, a line each, for `--dry_run`. */
export function describeMemory({ config, read, device, likely }: RunEstimate, localSize: number): string[] {
  const { whole } = roomOf(device, localSize);
  const less = neededBytes(likely, config, read, device) > whole;
  return [summary(likely), ...(less ? [`notice: ${device} has ${formatBytes(whole)} of memory, which is less.`] : [])];
}
