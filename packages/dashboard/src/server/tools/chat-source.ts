/** Where the weights of a chat are. The base, and the adapter of a run's checkpoint. */
import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { listCheckpoints, RUN_FILES } from '@minicpm-finetune/run';
import { ApiError } from '../errors.js';
import { jsonOfFile } from '../runs/small-file.js';

export interface Weights {
  /** Folder or name of the base. */
  readonly base: string;
  /** Folder; null: none. */
  readonly adapter: string | null;
  readonly label: string;
  /** Whether the base may be fetched: only where a person names it. */
  readonly mayFetch: boolean;
}

/** Of a run, what is needed to find its weights. */
export interface RunPlace {
  readonly name: string;
  readonly folder: string;
  /** Folder in which it was started, where relative paths of it begin; null: not known. */
  readonly cwd: string | null;
}

/** The weights of a checkpoint; `step` null: the run's result; `base`: what it began with. @throws ApiError 404, 409 */
export function weightsOfRun({ name, folder, cwd }: RunPlace, step: number | null | 'base'): Weights {
  if (step === 'base') {
    const base = baseOf(folder, folder, cwd);
    return { base, adapter: null, label: basename(base), mayFetch: false };
  }
  const label = step === null ? name : `${name}, step ${step}`;
  const of = step === null ? folder : listCheckpoints(folder).find((checkpoint) => checkpoint.step === step)?.path;
  if (of === undefined)
    throw new ApiError(404, `Expected a complete checkpoint of step ${step} but ${name} has none.`, { field: 'step' });
  if (existsSync(join(of, 'adapter_config.json'))) {
    return { base: baseOf(of, folder, cwd), adapter: of, label, mayFetch: false };
  }
  if (existsSync(join(of, 'config.json'))) return { base: of, adapter: null, label, mayFetch: false };
  throw new ApiError(409, `Expected weights or an adapter in ${of} but there are none yet.`, {
    field: 'step',
    cure: 'Choose a checkpoint, or wait for the end of the run.',
  });
}

/** The base of a run with adapters, as its `run.json` names it. */
function baseOf(adapter: string, folder: string, cwd: string | null): string {
  const named =
    textIn(join(folder, RUN_FILES.config), ['model', 'model_name_or_path']) ??
    textIn(join(adapter, 'adapter_config.json'), ['base_model_name_or_path']);
  if (named === null) {
    throw new ApiError(409, `Expected the name of the base in ${RUN_FILES.config} of ${folder} but there is none.`);
  }
  const path = resolve(cwd ?? folder, named);
  return existsSync(path) ? path : named;
}

function textIn(file: string, keys: readonly string[]): string | null {
  try {
    let value = jsonOfFile(file);
    for (const key of keys) value = (value as Record<string, unknown>)[key];
    return typeof value === 'string' && value !== '' ? value : null;
  } catch {
    return null;
  }
}

/** A model that is named itself. */
export function weightsOfModel(model: string, cwd: string): Weights {
  const path = resolve(cwd, model);
  return { base: existsSync(path) ? path : model, adapter: null, label: basename(model), mayFetch: true };
}
