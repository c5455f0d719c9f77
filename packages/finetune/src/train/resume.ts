/** Where a run starts: fresh, or from a checkpoint. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import {
  CONFIG_FLAGS,
  checkpointStep,
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
  removeUnfinished,
  verifyCheckpoint,
} from '../checkpoint/checkpoint.js';
import { holdsModel } from './open-model.js';
import { freshState, type RunState, stateOf } from './state.js';

/** Where a run starts. */
export interface Start {
  readonly state: RunState;
  /** The checkpoint it is resumed from; null: a fresh run. */
  readonly checkpoint: Checkpoint | null;
}

export interface Checkpoint {
  readonly folder: string;
  /** Of the data that it was trained on. */
  readonly fingerprint: string;
}

/** The start of a run: after the checkpoint to resume, which is checked, or fresh, for which the run folder is made ready. Throws UserErrors. */
export function startOf(config: RunConfig): Start {
  const { output_dir: runFolder, overwrite_output_dir: overwrite } = config.output;
  const asked = config.save.resume_from_checkpoint;
  if (asked === null) {
    makeReady(runFolder, overwrite);
    return { state: freshState(), checkpoint: null };
  }
  removeUnfinished(runFolder);
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
  return { state, checkpoint: { folder, fingerprint: saved.data_fingerprint } };
}

/** The best checkpoint lies beside the resumed one, wherever the run folder was when that was saved, and may be that one itself. */
function findBest(state: RunState, before: string, folder: string): void {
  state.bestCheckpoint = join(dirname(folder), basename(before));
  if (basename(before) === basename(folder)) state.bestContent = checkpointContent(folder);
}

/** A resumed run must see the data it saw before. */
export function compareData(checkpoint: Checkpoint, fingerprint: string, config: RunConfig): void {
  if (config.save.resume_anyway || checkpoint.fingerprint === fingerprint) return;
  throw new UserError(
    `Expected the data the checkpoint was trained on for --data_path but received ${config.data.data_path.join(', ')} with another content.`,
    {
      file: config.data.data_path[0]!,
      flag: '--data_path',
      cure: 'Give the same data files in the same order, or --resume_anyway true to continue with other data.',
    },
  );
}

function compareConfigs(before: RunConfig, now: RunConfig, folder: string): void {
  const differences: string[] = [];
  for (const flag of flagsOf(CONFIG_FLAGS)) {
    if (flag.freeOnResume) continue;
    const [was, is] = [before, now].map((config) => JSON.stringify(valueIn(config, flag)));
    if (was !== is) differences.push(`${flag.name} was ${was ?? 'not there'} and is ${is}`);
  }
  if (differences.length === 0) return;
  throw new UserError(`Expected the checkpoint's configuration but received other values: ${differences.join('; ')}.`, {
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

/** Refuses a folder with an earlier run or with a model, or clears it of the run if told to. */
function makeReady(runFolder: string, overwrite: boolean): void {
  if (!existsSync(join(runFolder, RUN_FILES.events))) {
    refuseModel(runFolder);
    return;
  }
  if (!overwrite) {
    throw new UserError(
      `Expected a new folder for --output_dir but received ${runFolder}, which holds an earlier run.`,
      {
        flag: '--output_dir',
        cure: 'Name another folder, resume with --resume_from_checkpoint latest, or start over with --overwrite_output_dir true.',
      },
    );
  }
  removeUnfinished(runFolder);
  for (const name of readdirSync(runFolder)) {
    if (checkpointStep(name) !== undefined) rmSync(join(runFolder, name), { recursive: true });
  }
  const { events, config, stop, logs, answers, nonfinite, profile } = RUN_FILES;
  for (const name of [events, config, stop, logs, answers, nonfinite, profile])
    rmSync(join(runFolder, name), { recursive: true, force: true });
}

/** The trained model would take the place of the weights that lie there, perhaps those the run starts from. */
function refuseModel(runFolder: string): void {
  const old = existsSync(runFolder) ? readdirSync(runFolder).find((name) => name.endsWith('.safetensors')) : undefined;
  if (old === undefined) return;
  throw new UserError(`Expected a new folder for --output_dir but received ${runFolder}, which holds ${old}.`, {
    flag: '--output_dir',
    cure: 'Name another folder: the trained model will be written there.',
  });
}
