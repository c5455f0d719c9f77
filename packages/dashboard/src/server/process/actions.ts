/** What is done to a run: stop, save, end, resume, delete. A process gets a signal only when its id and its start are those of the run. */
import { existsSync, lstatSync, writeFileSync } from 'node:fs';
import { basename, join, sep } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { checkpointName, listCheckpoints, RUN_FILES, thisProcess } from '@minicpm-finetune/run';
import { ApiError } from '../errors.js';
import { isResumable, type KnownRun } from '../runs/known-run.js';
import { isAlive } from '../runs/state.js';
import { readLaunch } from './launch-record.js';
import type { Launcher } from './launcher.js';

/** Milliseconds between the signal that asks a training to stop and the one that ends it. */
const BETWEEN_SIGNALS = 250;

export function hasStopFile(run: KnownRun): boolean {
  return existsSync(join(run.folder, RUN_FILES.stop));
}

/** Asks the run to finish its step, save and end, by a file: also a run of another machine. */
export function stop(run: KnownRun, launcher: Launcher): string {
  if (run.state === 'queued') {
    launcher.cancel(run);
    return 'The run does not wait any more.';
  }
  requireState(run, ['running', 'probably_running'], 'stopped');
  const path = join(run.folder, RUN_FILES.stop);
  if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) return 'The run was asked to stop before.';
  writeFileSync(path, '', { flag: 'wx' });
  return 'The run finishes its step, saves and ends.';
}

/** Asks the run to save after its step. */
export function save(run: KnownRun): string {
  requireState(run, ['running'], 'saved');
  process.kill(requireProcess(run), 'SIGUSR1');
  return 'The run saves a checkpoint after its step.';
}

/** Ends the process without saving: the first signal asks, the second one ends. */
export async function end(run: KnownRun): Promise<string> {
  requireState(run, ['running', 'starting'], 'ended');
  const pid = requireProcess(run);
  process.kill(pid, 'SIGTERM');
  await pause(BETWEEN_SIGNALS);
  if (findProcess(run) === pid) process.kill(pid, 'SIGTERM');
  return 'The process was ended. What it did since the last checkpoint is lost.';
}

/** Goes on from a checkpoint, the newest one unless a step is named. */
export async function resume(run: KnownRun, step: number | undefined, launcher: Launcher): Promise<string> {
  if (run.isLive || run.state === 'queued')
    throw new ApiError(409, `Expected a run that has ended but its state is ${run.state}.`, {
      cure: 'Stop it first.',
    });
  const wanted = step ?? run.resumableStep;
  const checkpoint = listCheckpoints(run.folder).find(({ path, step: of }) => of === wanted && isResumable(path));
  if (checkpoint === undefined)
    throw new ApiError(409, `Expected a checkpoint that can be resumed but there is none of step ${wanted ?? '?'}.`, {
      field: 'step',
      cure: 'Choose another checkpoint. Those of --save_only_model cannot be resumed.',
    });
  await launcher.resume(run, join(run.folder, checkpointName(checkpoint.step)), folderOfStart(run));
  return `The run resumes from step ${checkpoint.step}.`;
}

/** Where relative paths of the run's settings start. */
function folderOfStart(run: KnownRun): string {
  const { launch, digest } = run;
  const said = digest.starts.at(-1)?.cwd ?? launch?.cwd;
  if (said !== undefined && said !== null && existsSync(said)) return said;
  const written = digest.changed.output_dir; // a run of a version that did not write it: its folder ends with --output_dir
  if (typeof written === 'string' && !written.startsWith(sep)) {
    const parts = written.replace(/^\.\//, '').replace(/\/+$/, '');
    if (run.folder.endsWith(`${sep}${parts}`)) return run.folder.slice(0, -parts.length - 1) || sep;
  }
  return process.cwd();
}

function requireState(run: KnownRun, states: readonly string[], done: string): void {
  if (states.includes(run.state)) return;
  throw new ApiError(409, `Expected a run that is running to be ${done} but its state is ${run.state}.`);
}

/** The process of the run on this machine, or undefined. */
function findProcess({ digest, launch, lock, state, folder }: KnownRun): number | undefined {
  const { host } = thisProcess();
  if (state === 'starting') {
    const record = readLaunch(folder) ?? launch;
    const pid = record?.pid ?? null;
    return pid !== null && record?.hostname === host && isAlive(pid, record.processStart) ? pid : undefined;
  }
  const start = digest.starts.at(-1);
  if (start?.pid != null && start.hostname === host && isAlive(start.pid, start.processStart)) return start.pid;
  const own = thisProcess();
  const here =
    lock !== null && lock.host === own.host && lock.machine === own.machine && lock.namespace === own.namespace;
  return here && isAlive(lock.pid, lock.start) ? lock.pid : undefined;
}

function requireProcess(run: KnownRun): number {
  const pid = findProcess(run);
  if (pid !== undefined && pid > 1) return pid;
  throw new ApiError(409, `Expected the process of ${basename(run.folder)} on this machine but it is not there.`, {
    cure: 'Stop the run instead: that works by a file.',
  });
}
