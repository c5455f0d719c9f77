/**
 * The output folder before a run's first step. One process owns it, nothing of anybody else is replaced, and of an earlier run only
 * the files that it lists as its own (packages/run/src/own-files.ts), unchanged, are removed. All of it is looked at first; the earlier
 * run is removed when everything else is ready, so that a start that fails leaves it whole.
 */
import { existsSync, lstatSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import {
  checkpointStep,
  type FileLock,
  isWorkingName,
  listCheckpoints,
  OWN_FILES,
  OwnFiles,
  RUN_FILES,
  type RunConfig,
  removeEmpty,
  requireUnlocked,
  takeLock,
  UserError,
} from '@minicpm-finetune/run';
import { removeUnfinished, TRAINER_FILES } from '../checkpoint/checkpoint.js';
import { isIntact } from '../checkpoint/durable.js';
import { isSame, refuseInputs, refuseModelFolders, refuseSame } from './kept-files.js';
import { resultNames } from './open-model.js';
import { isRequest } from './stop.js';
import { makeFolder, requireWritable } from './writable-folder.js';

const FLAG = '--output_dir';
const SHOWN = 10;

/** The output folder of a run that this process owns. */
export interface OutputFolder {
  readonly own: OwnFiles;
  /** Files of an earlier run, relative to the folder, which the run removes before it writes. */
  readonly earlier: readonly string[];
  /** Gives the folder up, and removes it if it was made here and is empty. */
  release(): void;
}

/** Makes the folder if need be, and locks it. @throws UserError when it is in use, cannot be written, or holds what the run must not touch */
export function claimOutput(config: RunConfig): OutputFolder {
  const { output_dir: folder } = config.output;
  refuseModelFolders(config);
  requireWritable(folder);
  const made = makeFolder(folder);
  let lock: FileLock | undefined;
  const release = (): void => {
    lock?.release();
    if (made !== undefined) removeEmpty(folder, made);
  };
  try {
    lock = takeLock(join(folder, RUN_FILES.lock), { what: folder, flag: FLAG });
    const found = lookAtOutput(config);
    if (isResumed(config)) removeUnfinished(folder);
    return { ...found, release };
  } catch (error) {
    release();
    throw error;
  }
}

/** The output folder on a rank that does not own it, and never writes in it by itself. */
export function unownedOutput({ output: { output_dir: folder } }: RunConfig): OutputFolder {
  return { own: new OwnFiles(folder), earlier: [], release: () => {} };
}

/** Checks what `claimOutput` would, and touches nothing. @throws UserError as it does */
export function checkOutput(config: RunConfig): Omit<OutputFolder, 'release'> {
  const { output_dir: folder } = config.output;
  requireWritable(folder);
  requireUnlocked(join(folder, RUN_FILES.lock), { what: folder, flag: FLAG });
  return lookAtOutput(config);
}

/** What `claimOutput` finds, without a lock and without touching anything. @throws UserError as it does */
function lookAtOutput(config: RunConfig): Omit<OutputFolder, 'release'> {
  const { output_dir: folder, overwrite_output_dir: overwrite } = config.output;
  refuseModelFolders(config);
  const own = new OwnFiles(folder);
  if (!existsSync(folder)) return { own, earlier: [] };
  if (isResumed(config)) {
    if (own.exists) refuseTaken(folder, takenNames(config, own, null));
    return { own, earlier: [] };
  }
  if (own.exists && own.began && !overwrite) throw holdsRun(folder);
  const isOlder = !own.exists && holdsEvents(folder);
  if (isOlder && !overwrite) throw holdsRun(folder);
  const earlier = own.exists ? own.names.filter((name) => own.ownership(name) === 'own') : [];
  if (!own.exists && overwrite) earlier.push(...provenCheckpoints(folder));
  refuseInputs(config, earlier);
  const removed = new Set(earlier);
  const taken = takenNames(config, own, null).filter((name) => !removed.has(name));
  if (isOlder) throw olderRun(folder, taken);
  refuseTaken(folder, taken);
  return { own, earlier };
}

/** The files that the trained model will have are known when the model is found: none of them may be somebody else's. */
export function refuseTakenResult(
  config: RunConfig,
  { own, earlier }: Omit<OutputFolder, 'release'>,
  modelFolder: string,
): void {
  refuseSame(config.output.output_dir, modelFolder, '--model_name_or_path');
  if (isResumed(config) && !own.exists) return;
  const removed = new Set(earlier);
  refuseTaken(
    config.output.output_dir,
    takenNames(config, own, modelFolder).filter((name) => !removed.has(name)),
  );
}

/** Removes the earlier run. Returns its files that stay, because someone changed them. */
export function clearEarlier(config: RunConfig, { own, earlier }: Omit<OutputFolder, 'release'>): string[] {
  const { output_dir: folder } = config.output;
  if (isResumed(config) || earlier.length === 0) return [];
  const left = own.names.filter((name) => own.ownership(name) === 'changed');
  if (own.exists)
    for (const name of readdirSync(folder).filter(isWorkingName)) rmSync(join(folder, name), { recursive: true });
  own.remove(earlier);
  return left;
}

/** A run of an earlier version that is resumed: from now on its checkpoints, configuration and result are on the list. */
export function adoptOlder(config: RunConfig, own: OwnFiles): void {
  own.open();
  const { output_dir: folder } = config.output;
  const intact = listCheckpoints(folder).filter(({ path }) => isIntact(path));
  for (const { path } of intact) own.noteFolder(basename(path));
  const newest = intact.at(-1);
  const result = newest === undefined ? [] : readdirSync(newest.path).filter((name) => !TRAINER_FILES.has(name));
  for (const name of [RUN_FILES.config, RUN_FILES.result, ...result])
    if (existsSync(join(folder, name))) own.note(name);
}

/** Whether the run continues one of this folder. */
export function isResumed({
  save: { resume_from_checkpoint: asked },
  output: { output_dir: folder },
}: RunConfig): boolean {
  if (asked === null || asked === 'latest') return asked === 'latest';
  return isSame(dirname(resolve(asked)), folder);
}

/** Checkpoints of later steps would be written again. */
function resumedStep(config: RunConfig): number {
  const { resume_from_checkpoint: asked } = config.save;
  if (asked === null || !isResumed(config)) return -1;
  return asked === 'latest' ? Number.POSITIVE_INFINITY : (checkpointStep(basename(resolve(asked))) ?? -1);
}

/** Names in the folder that the run would write and that are somebody else's, or changed. `modelFolder` null: without the result's. */
function takenNames(config: RunConfig, own: OwnFiles, modelFolder: string | null): string[] {
  const { output_dir: folder } = config.output;
  const resumed = isResumed(config);
  if (!existsSync(folder)) return [];
  const names = readdirSync(folder);
  const { stop, answers, nonfinite, profile, badRecords, logs } = RUN_FILES;
  const files = [
    RUN_FILES.config,
    RUN_FILES.result,
    ...(resumed ? [] : [RUN_FILES.events]),
    ...(resumed || config.data.on_bad_record !== 'skip' ? [] : [badRecords]),
    ...(config.logging.profile > 0 ? [profile] : []),
    ...(own.exists ? [] : [OWN_FILES, ...names.filter(isWorkingName)]),
    ...(modelFolder === null ? [] : resultNames(config, modelFolder)),
  ];
  const kept = resumed ? [] : names.filter((name) => name.endsWith('.safetensors'));
  const parts = [
    ...names.filter((name) => (checkpointStep(name) ?? -1) > resumedStep(config)),
    ...partsOf(folder, nonfinite, /^step-\d+$/),
    ...(config.eval.eval_generate > 0 ? [...partsOf(folder, answers, /^step-\d+$/), ...pictures(folder)] : []),
    ...(config.logging.report_to.includes('tensorboard') && config.logging.logging_dir === null
      ? partsOf(folder, logs, /^$/)
      : []),
  ];
  const stopFile = isTaken(folder, stop) ? [stop] : [];
  const all = [...new Set([...files, ...kept, ...parts])];
  return [...stopFile, ...all.flatMap((name) => own.others(name))];
}

/** What lies in a folder of the run under the names that the run uses; the folder itself if it is a file. */
function partsOf(folder: string, name: string, pattern: RegExp): string[] {
  const status = statSync(join(folder, name), { throwIfNoEntry: false });
  if (status === undefined) return [];
  if (!status.isDirectory()) return [name];
  return readdirSync(join(folder, name))
    .filter((part) => pattern.test(part))
    .map((part) => join(name, part));
}

function pictures(folder: string): string[] {
  if (!statSync(join(folder, RUN_FILES.answers), { throwIfNoEntry: false })?.isDirectory()) return [];
  return partsOf(folder, join(RUN_FILES.answers, 'images'), /^\d+-\d+(\.\w+)?$/);
}

/** A STOP file that holds something is somebody's file. An empty one asks the run to stop, and is removed then. */
function isTaken(folder: string, name: string): boolean {
  const status = lstatSync(join(folder, name), { throwIfNoEntry: false });
  if (status === undefined) return false;
  return !isRequest(join(folder, name));
}

/** An events.jsonl that a run wrote. */
function holdsEvents(folder: string): boolean {
  const file = join(folder, RUN_FILES.events);
  if (!lstatSync(file, { throwIfNoEntry: false })?.isFile()) return false;
  try {
    const first = JSON.parse(readFileSync(file, 'utf8').split('\n', 1)[0]!) as {
      event?: unknown;
      time?: unknown;
    } | null;
    return typeof first?.event === 'string' && typeof first.time === 'string';
  } catch {
    return false;
  }
}

/** Files of checkpoints that are as their manifests say and hold nothing else: a run of an earlier version wrote them. */
function provenCheckpoints(folder: string): string[] {
  return listCheckpoints(folder)
    .filter(({ path }) => isIntact(path))
    .flatMap(({ path }) =>
      readdirSync(path, { recursive: true, encoding: 'utf8' }).map((name) => join(basename(path), name)),
    )
    .filter((name) => statSync(join(folder, name)).isFile());
}

function holdsRun(folder: string): UserError {
  return new UserError(`Expected a new folder for ${FLAG} but received ${folder}, which holds an earlier run.`, {
    flag: FLAG,
    cure: 'Name another folder, resume with --resume_from_checkpoint latest, or start over with --overwrite_output_dir true.',
  });
}

function olderRun(folder: string, names: readonly string[]): UserError {
  return new UserError(
    `Expected a run that lists its files for --overwrite_output_dir but received ${folder}, whose run of an earlier version has no ${OWN_FILES}: nobody can tell whose ${listed(names)} are.`,
    { flag: '--overwrite_output_dir', cure: 'Name another folder, or remove these files yourself.' },
  );
}

function refuseTaken(folder: string, names: readonly string[]): void {
  if (names.length === 0) return;
  throw new UserError(
    `Expected a folder for ${FLAG} in which nothing is replaced but received ${folder}, which holds ${listed(names)}: this run did not write ${names.length === 1 ? 'it, or it was' : 'them, or they were'} changed since.`,
    { flag: FLAG, cure: 'Name another folder, or move what is in the way to another place.' },
  );
}

function listed(names: readonly string[]): string {
  const rest = names.length - SHOWN;
  return `${names.slice(0, SHOWN).join(', ')}${rest > 0 ? ` and ${rest} more` : ''}`;
}
