/**
 * Removes a checkpoint or a run. Only files that the run's own list or a checkpoint's manifest proves by their content; what else lies there
 * stays, and is named. Hashing may take minutes, so it is done by `removal-worker.ts` in a thread of its own.
 */
import { Worker } from 'node:worker_threads';
import { listCheckpoints } from '@minicpm-finetune/run';
import { ApiError } from '../errors.js';
import { isResumable, type KnownRun } from '../runs/known-run.js';

// The built file, whether this file runs from src (tests) or from dist.
const WORKER_FILE = new URL('../../../dist/server/process/removal-worker.js', import.meta.url);

export interface RemovalRequest {
  readonly folder: string;
  /** The name of a checkpoint; null: the whole run. */
  readonly checkpoint: string | null;
}

export interface Removed {
  readonly removed: number;
  /** What stays, relative to the run folder: others' files. */
  readonly left: readonly string[];
  /** Nothing was removed: why. */
  readonly refused: string | null;
}

/** Why a checkpoint has to stay; null: it may go. */
export function keptBecause(run: KnownRun, checkpoint: { step: number; path: string }): string | null {
  if (run.isLive) return 'The run is running and may need it.';
  const resumable = listCheckpoints(run.folder).filter(({ path }) => isResumable(path));
  const isLast = resumable.length === 1 && resumable[0]!.step === checkpoint.step;
  return isLast ? 'It is the last checkpoint from which the run can be resumed.' : null;
}

/** @throws ApiError 404, 409 when it has to stay or nothing proves what is in it */
export async function removeCheckpoint(run: KnownRun, step: number): Promise<string> {
  const checkpoint = listCheckpoints(run.folder).find(({ step: of }) => of === step);
  if (checkpoint === undefined) throw new ApiError(404, `Expected a checkpoint of step ${step} but there is none.`);
  const kept = keptBecause(run, checkpoint);
  if (kept !== null) throw new ApiError(409, `The checkpoint of step ${step} stays: ${kept}`);
  const { left } = await removeBy({ folder: run.folder, checkpoint: `checkpoint-${step}` });
  return withLeft(`The checkpoint of step ${step} was deleted.`, left);
}

/** @throws ApiError 409 when it runs, or nothing proves what is in it */
export async function removeRun(run: KnownRun): Promise<string> {
  if (run.isLive) throw new ApiError(409, `Expected a run that has ended but its state is ${run.state}.`);
  const { left } = await removeBy({ folder: run.folder, checkpoint: null });
  return withLeft('The run was deleted.', left);
}

function withLeft(done: string, left: readonly string[]): string {
  if (left.length === 0) return done;
  const names = left.length > 10 ? [...left.slice(0, 10), '…'] : left;
  return [done, `Not the run's, and left: ${names.join(', ')}.`].join(' ');
}

async function removeBy(request: RemovalRequest): Promise<Removed> {
  const result = await new Promise<Removed>((resolve, reject) => {
    const worker = new Worker(WORKER_FILE, { workerData: request, execArgv: [] });
    worker.once('message', resolve);
    worker.once('error', reject);
    worker.once('exit', (code) => reject(new Error(`the thread that deletes ended with ${code}`)));
  });
  if (result.refused !== null)
    throw new ApiError(409, result.refused, { cure: `Remove it yourself: rm -r ${request.folder}` });
  return result;
}
