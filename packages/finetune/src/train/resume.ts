/** Where a run starts: fresh, or from a checkpoint. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import {
  CONFIG_FLAGS,
  type Flag,
  flagsOf,
  latestCheckpoint,
  RUN_FILES,
  type RunConfig,
  UserError,
} from '@minicpm-finetune/run';
import {
  checkpointContent,
  readCheckpointConfig,
  readTrainerState,
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

/** The start of a run: after the checkpoint to resume, which is checked, or fresh. Throws UserErrors. */
export function startOf(config: RunConfig, output: Start['output']): Start {
  const { output_dir: runFolder } = config.output;
  const asked = config.save.resume_from_checkpoint;
  if (asked === null) return { state: freshState(), checkpoint: null, output };
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
  if (!config.save.resume_anyway) compareConfigs(readCheckpointConfig(folder), config, folder);
  const saved = readTrainerState(folder);
  const state = stateOf(saved);
  if (state.bestCheckpoint !== null) findBest(state, state.bestCheckpoint, folder);
  return {
    state,
    checkpoint: { folder, fingerprint: saved.data_fingerprint, failedRecord: saved.failed_record ?? null },
    output,
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
export function finishedRun(config: RunConfig, { own }: Start['output']): FinishedRun | null {
  if (config.save.resume_from_checkpoint !== 'latest' || !own.holds([RUN_FILES.config, RUN_FILES.result])) return null;
  const weights = config.lora.use_lora ? ['adapter_config.json', 'adapter_model.safetensors'] : ['config.json'];
  if (!own.holds(weights)) return null;
  const saved = readTrainerState(own.folder);
  if (saved.global_step < saved.max_steps || differences(readCheckpointConfig(own.folder), config).length > 0)
    return null;
  const { step: steps, trainLoss } = stateOf(saved);
  return { stopped: null, steps, trainLoss: meanLoss(trainLoss), vision: null };
}

function differences(before: RunConfig, now: RunConfig): string[] {
  const found: string[] = [];
  for (const flag of flagsOf(CONFIG_FLAGS)) {
    if (flag.freeOnResume) continue;
    const [was, is] = [before, now].map((config) => JSON.stringify(valueIn(config, flag)));
    if (was !== is) found.push(`${flag.name} was ${was ?? 'not there'} and is ${is}`);
  }
  return found;
}

function compareConfigs(before: RunConfig, now: RunConfig, folder: string): void {
  const found = differences(before, now);
  if (found.length === 0) return;
  throw new UserError(`Expected the checkpoint's configuration but received other values: ${found.join('; ')}.`, {
    file: join(folder, RUN_FILES.config),
    flag: '--resume_from_checkpoint',
    cure: 'Give the same flags, or --resume_anyway true to continue with the new ones.',
  });
}

/** A value of a configuration. A flag that is younger than the checkpoint has its default there: the run was without it. */
function valueIn(config: RunConfig, { group, name, default: usual }: Flag): unknown {
  const values = (config as Readonly<Record<string, Readonly<Record<string, unknown>> | undefined>>)[group];
  return values !== undefined && name in values ? values[name] : usual;
}
