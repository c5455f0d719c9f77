/** The checkpoints of a run. Their sizes, whether they are whole and can be resumed, which is best. Sizes are compared; contents only when deleting. */
import { existsSync, lstatSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { listCheckpoints, RUN_FILES, type Say } from '@minicpm-finetune/run';
import type { Checkpoint, CheckpointList } from '../../shared/api.js';
import { shellText } from '../process/command-words.js';
import { keptBecause } from '../process/removal.js';
import { isResumable, type KnownRun } from './known-run.js';
import type { RunRecord } from './run-record.js';
import { jsonOfFile } from './small-file.js';

interface Listed {
  readonly name: string;
  readonly bytes: number;
}

/** @param say of the language of what is said of them */
export function checkpointsOf(run: KnownRun, record: RunRecord, say: Say): CheckpointList {
  const best = bestCheckpoint(run, record);
  const checkpoints = listCheckpoints(run.folder).map((one) => describe(run, record, { ...one, best }, say));
  return { checkpoints, bytes: checkpoints.reduce((sum, { bytes }) => sum + bytes, 0), result: resultOf(run, record) };
}

function describe(
  run: KnownRun,
  record: RunRecord,
  { step, path, best }: { step: number; path: string; best: number | null },
  say: Say,
): Checkpoint {
  const event = record.checkpoints.findLast((one) => one.event.step === step)?.event;
  const { bytes, problems } = contentsOf(path);
  const kept = keptBecause(run, { step, path });
  return {
    step,
    folder: path,
    reason: event?.reason ?? null,
    bytes,
    seconds: event?.seconds ?? null,
    evalLoss: lossAt(record, step),
    time: event?.time ?? null,
    complete: problems.length === 0,
    problems: problems.map(say),
    resumable: problems.length === 0 && isResumable(path),
    best: step === best,
    kept: kept === null ? null : say(kept),
    commands: commandsOf(run, path),
  };
}

/** Bytes, and what of the manifest is not there in its size. */
function contentsOf(path: string): { bytes: number; problems: string[] } {
  let bytes = 0;
  for (const entry of readdirSync(path, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) bytes += lstatSync(join(entry.parentPath, entry.name)).size;
  try {
    const { files } = jsonOfFile(join(path, RUN_FILES.manifest)) as { files: readonly Listed[] };
    const problems = files.flatMap(({ name, bytes: listed }) => {
      const size = lstatSync(join(path, name), { throwIfNoEntry: false })?.size;
      return size === listed ? [] : [`${name}: ${size ?? 'no'} bytes, ${listed} in ${RUN_FILES.manifest}`];
    });
    return { bytes, problems };
  } catch (error) {
    return { bytes, problems: [`${RUN_FILES.manifest} cannot be read: ${(error as Error).message}`] };
  }
}

/** As the newest `trainer_state.json` says; without one that says it, the checkpoint of the smallest evaluation loss. */
function bestCheckpoint(run: KnownRun, record: RunRecord): number | null {
  const checkpoints = listCheckpoints(run.folder);
  for (const { path } of checkpoints.toReversed()) {
    const step = bestOf(join(path, 'trainer_state.json'));
    if (step !== null) return step;
  }
  let best: { step: number; loss: number } | null = null;
  for (const { step } of checkpoints) {
    const loss = lossAt(record, step);
    if (loss !== null && (best === null || loss < best.loss)) best = { step, loss };
  }
  return best?.step ?? null;
}

function lossAt({ evals }: RunRecord, step: number): number | null {
  return evals.findLast((one) => one.event.step === step)?.event.loss ?? null;
}

function bestOf(file: string): number | null {
  try {
    const { best_model_checkpoint: named } = jsonOfFile(file) as {
      best_model_checkpoint?: unknown;
    };
    const digits = typeof named === 'string' ? /checkpoint-(\d+)$/.exec(named)?.[1] : undefined;
    return digits === undefined ? null : Number(digits);
  } catch {
    return null;
  }
}

function commandsOf({ folder, digest }: KnownRun, path: string): Checkpoint['commands'] {
  const adapter = digest.method !== null && digest.method.kind !== 'full';
  const model = adapter ? [`--model=${baseOf(digest)}`, `--adapter=${path}`] : [`--model=${path}`];
  const text = (...words: string[]): string => shellText(['minicpm-finetune', ...words]);
  return {
    resume: text(
      'train',
      `--recipe=${join(folder, RUN_FILES.config)}`,
      `--output_dir=${folder}`,
      `--resume_from_checkpoint=${path}`,
    ),
    chat: text('chat', ...model),
    generate: text('generate', ...model, '--data_path=test.json', '--output=answers.jsonl'),
    merge: adapter ? text('merge', ...model, '--output_dir=merged') : '',
  };
}

/** The folder of the base where it is known, so that the command works anywhere; else as it was written. */
function baseOf({ model, starts }: KnownRun['digest']): string {
  const folder = resolve(starts.at(-1)?.cwd ?? '/', model ?? '');
  return model !== null && existsSync(folder) ? folder : (model ?? '');
}

/** The trained model beside the checkpoints. */
function resultOf({ folder }: KnownRun, { end }: RunRecord): CheckpointList['result'] {
  if (end?.output === undefined) return null;
  const weights = readdirSync(folder, { withFileTypes: true }).filter(
    (entry) => entry.isFile() && entry.name.endsWith('.safetensors'),
  );
  if (weights.length === 0) return null;
  return { folder, bytes: weights.reduce((sum, { name }) => sum + lstatSync(join(folder, name)).size, 0) };
}
