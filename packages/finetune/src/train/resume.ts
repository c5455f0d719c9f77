/** Where a run starts: fresh, or from a checkpoint. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { flatModuleName, VERSIONS } from '@minicpm-finetune/processor';
import {
  CONFIG_FLAGS,
  type Flag,
  flagsOf,
  latestCheckpoint,
  OFFICIAL_LORA_TARGETS,
  RUN_FILES,
  type RunConfig,
  UserError,
} from '@minicpm-finetune/run';
import {
  checkpointContent,
  readCheckpointConfig,
  readTrainerState,
  type TrainerState,
  verifyCheckpoint,
} from '../checkpoint/checkpoint.js';
import { holdsModel } from './open-model.js';
import type { OutputFolder } from './output-folder.js';
import { freshState, meanLoss, type RunState, stateOf } from './state.js';

/** A `TrainResult`. */
interface FinishedRun {
  readonly stopped: null;
  readonly steps: number;
  readonly trainLoss: number | null;
  readonly vision: null;
}

/** Where a run starts. */
export interface Start {
  readonly state: RunState;
  /** The checkpoint it is resumed from; null: a fresh run. */
  readonly checkpoint: Checkpoint | null;
  readonly output: Omit<OutputFolder, 'release'>;
}

export interface Checkpoint {
  readonly folder: string;
  /** Of the data that it was trained on. */
  readonly fingerprint: string;
  /** Index of the record at which the run failed; null: it did not. */
  readonly failedRecord: number | null;
}

/** The start of a run of `worldSize` ranks: after the checkpoint to resume, which is checked, or fresh. Throws UserErrors. */
export function startOf(config: RunConfig, worldSize = 1): Omit<Start, 'output'> {
  const { output_dir: runFolder } = config.output;
  const asked = config.save.resume_from_checkpoint;
  if (asked === null) return { state: freshState(), checkpoint: null };
  const folder = asked === 'latest' ? latestCheckpoint(runFolder)?.path : asked;
  if (folder === undefined || !existsSync(folder)) {
    throw new UserError(
      `Expected a complete checkpoint for --resume_from_checkpoint but ${folder ?? `${runFolder} has none`}${folder ? ' is not there' : ''}.`,
      {
        flag: '--resume_from_checkpoint',
        cure: 'Name a checkpoint-<step> folder, or leave the flag out to start from scratch.',
      },
    );
  }
  verifyCheckpoint(folder);
  if (!holdsModel(folder, config)) {
    throw new UserError(
      `Expected ${config.lora.use_lora ? 'an adapter' : 'a full checkpoint'} in ${folder} but received the other kind.`,
      {
        file: folder,
        flag: '--use_lora',
        cure: 'Resume with the value of --use_lora that the checkpoint was trained with.',
      },
    );
  }
  const saved = readTrainerState(folder);
  if (!config.save.resume_anyway)
    compareConfigs(settingsOf(readCheckpointConfig(folder), saved), { config, worldSize }, folder);
  const state = stateOf(saved);
  if (state.bestCheckpoint !== null) findBest(state, state.bestCheckpoint, folder);
  return {
    state,
    checkpoint: { folder, fingerprint: saved.data_fingerprint, failedRecord: saved.failed_record ?? null },
  };
}

/** The best checkpoint lies beside the resumed one, wherever the run folder was when that was saved, and may be that one itself. */
function findBest(state: RunState, before: string, folder: string): void {
  state.bestCheckpoint = join(dirname(folder), basename(before));
  if (basename(before) === basename(folder)) state.bestContent = checkpointContent(folder);
}

/**
 * A base in another place is the same base. An adapter's is known by the fingerprint of its weights (`loadAdapter`); the weights of a full
 * training come from the checkpoint, and its configuration must be the base's.
 */
export function compareBase({ folder }: Checkpoint, base: string, config: RunConfig): void {
  if (config.lora.use_lora || config.save.resume_anyway) return;
  const [saved, given] = [folder, base].map((path) => {
    const {
      torch_dtype: _,
      dtype: __,
      ...rest
    } = JSON.parse(readFileSync(join(path, 'config.json'), 'utf8')) as Record<string, unknown>;
    return JSON.stringify(rest);
  });
  if (saved === given) return;
  throw new UserError(
    `Expected the base that ${folder} was trained from for --model_name_or_path but received ${base}, whose config.json differs.`,
    {
      file: join(base, 'config.json'),
      flag: '--model_name_or_path',
      cure: 'Give the base of the run, or --resume_anyway true to continue with this one.',
    },
  );
}

/** The run of this folder that has nothing left to do: all steps are taken, and its result is there. Null: there is something to do. */
export function finishedRun(config: RunConfig, { own }: Start['output'], worldSize = 1): FinishedRun | null {
  if (config.save.resume_from_checkpoint !== 'latest' || !own.holds([RUN_FILES.config, RUN_FILES.result])) return null;
  const weights = config.lora.use_lora ? ['adapter_config.json', 'adapter_model.safetensors'] : ['config.json'];
  if (!own.holds(weights)) return null;
  const saved = readTrainerState(own.folder);
  const before = settingsOf(readCheckpointConfig(own.folder), saved);
  if (saved.global_step < saved.max_steps || differences(before, { config, worldSize }).length > 0) return null;
  const { step: steps, trainLoss } = stateOf(saved);
  return { stopped: null, steps, trainLoss: meanLoss(trainLoss), vision: null };
}

/** What a run was, or is, started with. */
interface Settings {
  readonly config: RunConfig;
  /** Number of ranks. */
  readonly worldSize: number;
}

const settingsOf = (config: RunConfig, { world_size: worldSize = 1 }: TrainerState): Settings => ({
  config,
  worldSize,
});

/** Of these only the product counts, ranks included: parts of a step are the same however they are dealt. */
const BATCH_FLAGS: readonly string[] = ['per_device_train_batch_size', 'gradient_accumulation_steps'];

function differences(before: Settings, now: Settings): string[] {
  const found: string[] = [];
  for (const flag of flagsOf(CONFIG_FLAGS)) {
    if (flag.freeOnResume || BATCH_FLAGS.includes(flag.name)) continue;
    const [was, is] = [before, now].map(({ config }) => JSON.stringify(valueIn(config, flag)));
    if (meaning(flag, was) !== meaning(flag, is)) found.push(`${flag.name} was ${was ?? 'not there'} and is ${is}`);
  }
  return [...found, ...otherBatch(before, now)];
}

/** A default is written for the first models, and an adapter keeps it in the names of its own model: both say the same. */
function meaning({ name }: Flag, value: string | undefined): string | undefined {
  if (value === undefined) return value;
  if (name === 'lora_modules_to_save')
    return JSON.stringify((JSON.parse(value) as string[]).map((module) => flatModuleName(module)));
  const isUsual = Object.values(VERSIONS).some(({ loraTargets }) => JSON.stringify(loraTargets) === value);
  return name === 'lora_target_modules' && isUsual ? JSON.stringify(OFFICIAL_LORA_TARGETS) : value;
}

/** Another number of records in a step, or in what is dropped at the end of an epoch. */
function otherBatch(before: Settings, now: Settings): string[] {
  const [was, is] = [before, now].map(product);
  const sizes = [before, now].map(({ config }) => config.batch.per_device_train_batch_size);
  const dropped = now.config.batch.dataloader_drop_last && sizes[0] !== sizes[1];
  if (was === is && !dropped) return [];
  return [`${BATCH_FLAGS.join(' × ')} × ranks was ${factors(before)} = ${was} and is ${factors(now)} = ${is}`];
}

const factors = ({ config: { batch }, worldSize }: Settings): string =>
  `${batch.per_device_train_batch_size} × ${batch.gradient_accumulation_steps} × ${worldSize}`;

const product = ({ config: { batch }, worldSize }: Settings): number =>
  batch.per_device_train_batch_size * batch.gradient_accumulation_steps * worldSize;

function compareConfigs(before: Settings, now: Settings, folder: string): void {
  const found = differences(before, now);
  if (found.length === 0) return;
  throw new UserError(`Expected the checkpoint's configuration but received other values: ${found.join('; ')}.`, {
    file: join(folder, RUN_FILES.config),
    flag: '--resume_from_checkpoint',
    cure: [
      'Give the same flags, or --resume_anyway true to continue with the new ones.',
      ...sameProduct(before, now),
    ].join(' '),
  });
}

/** How this many ranks take the steps of the checkpoint; none where they do, or cannot with the batch size it had. */
function sameProduct(before: Settings, now: Settings): string[] {
  const { per_device_train_batch_size: size } = before.config.batch;
  const accumulation = product(before) / (size * now.worldSize);
  if (otherBatch(before, now).length === 0 || !Number.isInteger(accumulation)) return [];
  return [
    `Steps are the same on ${now.worldSize} rank${now.worldSize === 1 ? '' : 's'} with --per_device_train_batch_size ${size} --gradient_accumulation_steps ${accumulation}.`,
  ];
}

/** A value of a configuration. A flag that is younger than the checkpoint has its default there: the run was without it. */
function valueIn(config: RunConfig, { group, name, default: usual }: Flag): unknown {
  const values = (config as Readonly<Record<string, Readonly<Record<string, unknown>> | undefined>>)[group];
  return values !== undefined && name in values ? values[name] : usual;
}
