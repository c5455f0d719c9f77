/**
 * Names of an adapter's tensors as other programs write them. With the wrappers of PyTorch, the adapter's own name, or
 * without PEFT's beginning. What fits after known additions are taken off is read; for the rest an error shows one name as
 * it is and as it should be.
 */
import type { Tensor, TensorInfo, TensorSource } from '@minicpm-finetune/torch';

/** What PEFT's names begin with; the name in the model follows. */
export const PREFIX = 'base_model.model.';

/** Modules that PyTorch puts around others: DataParallel, torch.compile, FSDP, activation checkpointing. */
const WRAPPERS = new Set(['module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module']);

/** A name without known additions, with PEFT's beginning. `root`: what names of the model itself begin with, if that is a name that is taken off. */
export function plainName(name: string, root = ''): string {
  const inside = name
    .split('.')
    .filter((part) => !WRAPPERS.has(part))
    .join('.')
    .replace(/^(?:(?:base_model|model)\.)+/, '')
    .replace(/\.modules_to_save\.[^.]+(?=\.)/, '')
    .replace(/\.lora_(A|B)\.[^.]+\.weight$/, '.lora_$1.weight')
    .replace(/\.lora_magnitude_vector(?:\.[^.]+){1,2}$/, '.lora_magnitude_vector');
  return PREFIX + root + inside;
}

/** Tensors of a file under the names that a model expects. */
export interface ReadNames {
  /** The file with these names in place of its own. */
  readonly source: TensorSource;
  /** A name that was read as another, as it is in the file and as it was read; null: all names are as they should be. */
  readonly example: readonly [inFile: string, read: string] | null;
  /** How many were read so. */
  readonly renamed: number;
}

/** Reads the names of `file` as those of `expected` where known additions are the only difference. Two that would become one stay as they are. */
export function readNames(file: TensorSource, expected: ReadonlySet<string>): ReadNames {
  const inFile = [...file.infos.keys()];
  const free = inFile.filter((name) => !expected.has(name));
  const plainOf = (name: string): string => {
    const plain = plainName(name);
    return expected.has(plain) ? plain : plainName(name, 'model.');
  };
  const counts = new Map<string, number>();
  for (const name of free) counts.set(plainOf(name), (counts.get(plainOf(name)) ?? 0) + 1);
  const fits = (name: string): boolean => {
    const plain = plainOf(name);
    return expected.has(plain) && !file.infos.has(plain) && counts.get(plain) === 1;
  };
  const renamed = new Map(free.filter(fits).map((name) => [name, plainOf(name)]));
  const source = renamed.size === 0 ? file : new RenamedTensors(file, renamed);
  return { source, example: [...renamed][0] ?? null, renamed: renamed.size };
}

class RenamedTensors implements TensorSource {
  readonly path: string;
  readonly infos: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  readonly #file: TensorSource;
  readonly #inFile: ReadonlyMap<string, string>;

  constructor(file: TensorSource, renamed: ReadonlyMap<string, string>) {
    this.path = file.path;
    this.metadata = file.metadata;
    this.#file = file;
    this.#inFile = new Map([...renamed].map(([before, after]) => [after, before]));
    this.infos = new Map([...file.infos].map(([name, info]) => [renamed.get(name) ?? name, info]));
  }

  tensor(name: string): Tensor {
    return this.#file.tensor(this.#inFile.get(name) ?? name);
  }

  readBytes(name: string, offset: number, target: Uint8Array): void {
    this.#file.readBytes(this.#inFile.get(name) ?? name, offset, target);
  }
}

/** The unexpected and the missing name that have the most in common: as it is in the file, and as it should be. */
export function nearestPair(
  unexpected: readonly string[],
  missing: readonly string[],
): readonly [inFile: string, expected: string] | undefined {
  let best: readonly [string, string] | undefined;
  let most = 2; // the last parts, such as lora_A.weight, say nothing
  for (const is of unexpected.slice(0, 50)) {
    for (const should of missing) {
      const common = inCommon(is, should);
      if (common > most) [best, most] = [[is, should], common];
    }
  }
  return best;
}

/** Parts of two names that agree in order, from the start and from the end. */
function inCommon(a: string, b: string): number {
  const [one, other] = [a.split('.'), b.split('.')];
  const shorter = Math.min(one.length, other.length);
  let start = 0;
  while (start < shorter && one[start] === other[start]) start++;
  let end = 0;
  while (end < shorter - start && one.at(-1 - end) === other.at(-1 - end)) end++;
  return start + end;
}

/** A Python command that renames every tensor of the file in the way in which `is` becomes `should`. */
export function renameInPython([is, should]: readonly [string, string], file: string): string {
  const [one, other] = [is.split('.'), should.split('.')];
  let start = 0;
  while (start < Math.min(one.length, other.length) - 1 && one[start] === other[start]) start++;
  let end = 0;
  while (end < Math.min(one.length, other.length) - 1 - start && one.at(-1 - end) === other.at(-1 - end)) end++;
  const middle = (parts: readonly string[]): string => parts.slice(start, parts.length - end + 1).join('.');
  return (
    'python -c "from safetensors.torch import load_file, save_file; ' +
    `tensors = load_file('${file}'); ` +
    `save_file({name.replace('${middle(one)}', '${middle(other)}'): tensor for name, tensor in tensors.items()}, '${file}')"`
  );
}
