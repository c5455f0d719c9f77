/**
 * Where a run's states are. What `--offload_optimizer` and `--offload_params` mean for it, and whether there is room. Not here: the places themselves
 * (parallel/offload.ts).
 */
import { formatBytes, type RunConfig, removeEmpty, UserError } from '@minicpm-finetune/run';
import { ownsStorage, Transfer } from '@minicpm-finetune/torch';
import { checkSpace } from '../checkpoint/durable.js';
import { optimizerSettings } from '../engine/optimizer.js';
import { FilePlace, HOST_MEMORY, isOffloaded, OFFLOAD_CURE, type Offload } from '../parallel/offload.js';
import type { Ranks } from '../parallel/ranks.js';
import type { Reporter } from '../report/reporter.js';
import type { TrainingModel } from './open-model.js';
import { makeFolder, requireWritable } from './writable-folder.js';

/** The places of a run's states; null: on the device. */
export interface RunOffload {
  readonly optimizer: Offload | null;
  readonly params: Offload | null;
  /** Frees what the ways take, and removes a folder that was made here and is empty. */
  close(): void;
}

const FLAGS = { optimizer: 'offload_optimizer', params: 'offload_params' } as const;

/**
 * Opens the places of a run; rank 0 says what is where.
 *
 * @throws UserError when a folder cannot be used, or its disk has no room for what comes there
 */
export function openOffload(
  {
    config,
    training,
    ranks,
  }: { config: RunConfig; training: TrainingModel; ranks: Pick<Ranks, 'rank' | 'size' | 'localSize'> },
  reporter: Pick<Reporter, 'notice'>,
): RunOffload {
  const { device } = training;
  const { engine } = config;
  const notice = (text: string): void => (ranks.rank === 0 ? reporter.notice(text) : undefined);
  const transfer = new Transfer(device);
  const made: [folder: string, top: string][] = [];
  const close = (): void => {
    transfer[Symbol.dispose]();
    for (const [folder, top] of made) removeEmpty(folder, top);
  };
  const openPlace = (flag: keyof typeof engine & `offload_${string}`): Offload | null => {
    const setting = engine[flag];
    if (setting === 'none') return null;
    if (device === 'mps') throw notOnMps(flag, setting);
    if (!isOffloaded(setting, device)) {
      notice(`${flag} ${setting} has no effect: the training runs on the CPU, whose memory is the host's.`);
      return null;
    }
    if (setting === 'cpu') return { place: HOST_MEMORY, transfer };
    requireWritable(setting, `--${flag}`);
    const top = makeFolder(setting, `--${flag}`);
    if (top !== undefined) made.push([setting, top]);
    return { place: new FilePlace(setting, `--${flag}`), transfer };
  };
  try {
    const optimizer = openPlace(FLAGS.optimizer);
    const offload = { optimizer, params: openPlace(FLAGS.params), close };
    describeBytes(offload, bytesOf(offload, { config, training, ranks }), ranks, notice);
    return offload;
  } catch (error) {
    close();
    throw error;
  }
}

function notOnMps(flag: string, setting: string): UserError {
  return new UserError(`Expected none for --${flag} on mps but received ${setting}.`, {
    flag: `--${flag}`,
    cure: 'Give none there; cuda and cpu can do it.',
  });
}

interface Bytes {
  readonly optimizer: number;
  readonly params: number;
}

/** Bytes that a rank has in each place, at most: of a token table moments are kept of the rows that occur. */
function bytesOf(
  { optimizer, params }: Pick<RunOffload, 'optimizer' | 'params'>,
  {
    config,
    training,
    ranks,
  }: { config: RunConfig; training: TrainingModel; ranks: Pick<Ranks, 'rank' | 'size' | 'localSize'> },
): Bytes {
  const { model, trainable, trainableNumbers, device } = training;
  const shared = config.engine.zero_stage === '0' && params === null ? 1 : ranks.size;
  const { masterWeights } = optimizerSettings(config);
  const width = config.precision.dtype === 'float32' ? 4 : 2;
  const copies = device !== 'cpu' && params === null ? width : 0;
  const each = width === 2 && masterWeights ? 12 : 2 * width + copies;
  let weightBytes = 0;
  for (const [name, parameter] of params === null ? [] : model.namedParameters()) {
    if (parameter.compact !== undefined) continue; // it would make its tensor
    if (trainable.has(name) || device !== 'cpu' || ownsStorage(parameter.data)) weightBytes += parameter.data.nbytes;
  }
  return {
    optimizer: optimizer === null ? 0 : (each * trainableNumbers) / shared,
    params: weightBytes / ranks.size,
  };
}

function describeBytes(
  offload: Pick<RunOffload, 'optimizer' | 'params'>,
  bytes: Bytes,
  { localSize }: Pick<Ranks, 'localSize'>,
  notice: (text: string) => void,
): void {
  const folders = new Map<string, number>();
  for (const kind of ['optimizer', 'params'] as const) {
    const folder = offload[kind]?.place.folder;
    if (folder) folders.set(folder, (folders.get(folder) ?? 0) + bytes[kind] * localSize);
  }
  for (const [folder, needed] of folders) checkSpace(folder, needed, 'offloaded states', OFFLOAD_CURE);
  const where = ({ place: { folder } }: Offload): string => folder ?? 'host memory';
  if (offload.optimizer)
    notice(
      `offload_optimizer: the optimizer's states, ${formatBytes(bytes.optimizer)}, are in ${where(offload.optimizer)}; the update runs on the CPU.`,
    );
  if (offload.params)
    notice(
      `offload_params: weights, ${formatBytes(bytes.params)}, are in ${where(offload.params)}; a block's are on the device while it runs.`,
    );
}
