/** The tensors in an adapter's file. Opened, and compared with what a model with the adapter has. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileKindOf, UserError } from '@minicpm-finetune/run';
import { type Parameter, SafetensorsError, SafetensorsFile, type TensorSource } from '@minicpm-finetune/torch';
import { familyByTensors, type ModelOrigin } from './family.js';
import type { AppliedLora } from './lora.js';
import { nearestPair, renameInPython } from './names.js';
import { WEIGHTS_FILE } from './side-files.js';

/** The tensors of the adapter in a folder. Throws UserError for a file that is missing or damaged. */
export function openAdapterWeights(folder: string): TensorSource {
  const file = join(folder, WEIGHTS_FILE);
  try {
    return new SafetensorsFile(file);
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    if (!missing && !(cause instanceof SafetensorsError)) throw cause;
    const kind = missing ? undefined : fileKindOf(file);
    const pickle = missing && existsSync(join(dirname(file), 'adapter_model.bin'));
    const other = kind === undefined || kind.what === 'a safetensors file' ? undefined : kind;
    const found = pickle
      ? 'received adapter_model.bin, a pickle, which can run code'
      : missing
        ? 'the file is missing'
        : other && `received ${other.what}`;
    throw new UserError(`Expected the weights of the adapter but ${found ?? (cause as Error).message}.`, {
      file,
      cure: pickle
        ? 'Only safetensors are read: save the adapter again with save_pretrained(…, safe_serialization=True) of PEFT.'
        : (other?.cure ??
          'Copy the adapter again; weights in other formats (adapter_model.bin) have to be converted with PEFT.'),
      cause,
    });
  }
}

/** Under bias "all" PEFT writes the biases of saved modules three times; these are the two that nothing reads. */
function isDuplicate(name: string, applied: AppliedLora): boolean {
  return applied.config.bias === 'all' && /\.(original_module|modules_to_save\.[^.]+)\.(.*\.)?bias$/.test(name);
}

/**
 * Compares names and shapes in an adapter's file with those of a model's adapters.
 *
 * @throws UserError naming those that are missing, unexpected or misshapen, or the model that the adapter belongs to
 */
export function compareTensors(
  source: TensorSource,
  parameters: ReadonlyMap<string, Parameter>,
  applied: AppliedLora,
  own: ModelOrigin | null,
): void {
  const missing = [...parameters.keys()].filter((name) => !source.infos.has(name));
  const unexpected = [...source.infos.keys()].filter((name) => !parameters.has(name) && !isDuplicate(name, applied));
  const misshapen = [...parameters].flatMap(([name, { shape }]) => {
    const found = source.infos.get(name)?.shape ?? shape;
    const same = found.length === shape.length && shape.every((size, i) => size === found[i]);
    return same ? [] : [`${name}: [${shape.join(', ')}] expected, [${found.join(', ')}] received`];
  });
  const problems = [
    ...describe('missing', missing),
    ...describe('unexpected', unexpected),
    ...describe('of another shape', misshapen),
  ];
  if (problems.length === 0) return;
  const other = own === null ? undefined : familyByTensors(source.infos, own, source.path);
  if (other !== undefined) throw other;
  const pair = nearestPair(unexpected, missing);
  throw new UserError(
    `Expected ${parameters.size} tensors for the adapter on this model but received ${source.infos.size}: ${problems.join('; ')}.`,
    {
      file: source.path,
      cure:
        pair === undefined
          ? 'The adapter belongs to another base model, or the file was edited: give the model it was trained on.'
          : `If only names differ, rename the tensors: ${pair[0]} should be ${pair[1]}. In the adapter's folder:\n` +
            `    ${renameInPython(pair, WEIGHTS_FILE)}\n` +
            'Otherwise the adapter belongs to another base model: give the model it was trained on.',
    },
  );
}

const LISTED = 5;

function describe(what: string, names: readonly string[]): string[] {
  if (names.length === 0) return [];
  const rest = names.length > LISTED ? `, and ${names.length - LISTED} more` : '';
  return [
    `${names.length} ${what} (${names
      .slice(0, LISTED)
      .map((name) => name.slice(0, 120))
      .join(', ')}${rest})`,
  ];
}
