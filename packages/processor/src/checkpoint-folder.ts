/** Whether a folder is that of a checkpoint. What it is otherwise, and what to give instead. */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileKindOf, latestCheckpoint, pathCure, shown, shownPath, UserError } from '@minicpm-finetune/run';

/** Files of a checkpoint that decide which tokens a conversation becomes; the last is not in all. */
export const TOKENIZER_FILES = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'] as const;

export interface CheckpointPlace {
  /** The flag that names the folder, with dashes. */
  readonly flag: string;
  /** The flag of the same command that takes an adapter; absent: it has none. */
  readonly adapterFlag?: '--adapter' | '--lora_weight_path';
}

/**
 * Refuses what is no folder with a config.json.
 *
 * @throws UserError that says what it is: nothing, a file, the folder of an adapter, a run that is not finished, a folder around checkpoints,
 *   weights of another kind.
 */
export function requireCheckpoint(folder: string, { flag, adapterFlag }: CheckpointPlace): void {
  const refuse = (received: string, cure: string): UserError =>
    new UserError(`Expected the folder of a checkpoint for ${flag} but received ${received}.`, { flag, cure });
  const stat = statSync(folder, { throwIfNoEntry: false });
  if (stat === undefined) throw refuse(`${shown(folder)}, which does not exist`, pathCure(folder, 'Check the path.'));
  if (!stat.isDirectory()) {
    const kind = fileKindOf(folder);
    const cure = 'Give the folder that holds config.json and the safetensors files.';
    throw refuse(
      `the file ${shown(folder)}${kind === undefined ? '' : `, ${kind.what}`}`,
      kind?.group === 'weights' ? (kind.cure ?? cure) : cure,
    );
  }
  if (existsSync(join(folder, 'config.json'))) return;
  if (existsSync(join(folder, 'adapter_config.json')))
    throw refuse(`that of an adapter, ${shown(folder)}`, adapterCure(folder, flag, adapterFlag));
  refuseUnfinishedRun(folder, flag);
  const names = readdirSync(folder);
  const inner = names.filter((name) => existsSync(join(folder, name, 'config.json')));
  if (inner.length > 0)
    throw refuse(
      `${shown(folder)}, which holds other checkpoints`,
      `Did you mean ${shownPath(join(folder, latest(inner)))}?`,
    );
  const gguf = names.find((name) => name.endsWith('.gguf'));
  if (gguf !== undefined)
    throw refuse(
      `${shown(folder)}, which holds ${shownPath(gguf)} of llama.cpp`,
      'Give the folder of the checkpoint in safetensors that it was made from.',
    );
  const cure = 'Give the folder that holds config.json and the safetensors files.';
  throw refuse(`${shown(folder)}, which has no config.json${names.length === 0 ? ': it is empty' : ''}`, cure);
}

/** A run folder has a model or an adapter only when the run is finished; before, its checkpoints have one. */
function refuseUnfinishedRun(folder: string, flag: string): void {
  const newest = latestCheckpoint(folder);
  if (newest === undefined) return;
  const isAdapter = existsSync(join(newest.path, 'adapter_config.json'));
  throw new UserError(
    `Expected a folder with config.json and weights but received ${shownPath(folder)}, a run folder that has checkpoints only.`,
    {
      flag,
      cure: isAdapter
        ? `The run trains an adapter and was not finished. Give its base as the model, and its newest checkpoint as the adapter: ${newest.path}.`
        : `The run was not finished. Give its newest checkpoint: ${newest.path}.`,
    },
  );
}

/** Of checkpoint-500 and checkpoint-1000 the second. */
function latest(names: readonly string[]): string {
  const number = (name: string): number => Number(/\d+$/.exec(name)?.[0] ?? -1);
  return [...names].sort((a, b) => number(b) - number(a))[0]!;
}

function adapterCure(folder: string, flag: string, adapterFlag: CheckpointPlace['adapterFlag']): string {
  const base = baseOf(folder);
  const named = base === undefined ? '' : `: ${shownPath(base)}`;
  if (adapterFlag === '--adapter') return `Give it as --adapter, and its base as ${flag}${named}.`;
  if (adapterFlag === undefined) return `Give the adapter's base as ${flag}${named}.`;
  return `Give the adapter's base as ${flag}${named}, or continue it with ${adapterFlag} ${shownPath(folder)} beside it.`;
}

/** The base that an adapter's configuration names. */
function baseOf(folder: string): string | undefined {
  try {
    const { base_model_name_or_path: base } = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'));
    return typeof base === 'string' && base !== '' ? base : undefined;
  } catch {
    return undefined;
  }
}
