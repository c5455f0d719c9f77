/** What a run starts from, and never removes or writes over. The model, the adapter, its settings, the data and their pictures. */
import { existsSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type RunConfig, UserError } from '@minicpm-finetune/run';
import { filesBehind } from '../config/resolve.js';
import type { Dataset } from '../data/dataset.js';
import type { Preflight } from '../data/preflight.js';

const FLAG = '--output_dir';

/** Files and folders that a configuration names, or that it was read from: they stay, whatever is overwritten. */
function inputsOf(config: RunConfig): string[] {
  const { model, data, lora } = config;
  const named = [...filesBehind(config), model.model_name_or_path, ...data.data_path, ...data.eval_data_path];
  return lora.lora_weight_path === null ? named : [...named, lora.lora_weight_path];
}

/** The output folder must not be that of the model or the adapter, however the paths are written. */
export function refuseModelFolders({
  output: { output_dir: folder, overwrite_output_dir: overwrite },
  model,
  lora,
}: RunConfig): void {
  const named = [
    ['--model_name_or_path', model.model_name_or_path],
    ['--lora_weight_path', lora.lora_weight_path],
  ] as const;
  for (const [flag, path] of named) {
    if (path === null) continue;
    refuseSame(folder, path, flag);
    if (overwrite && isInside(path, folder)) throw modelInside(folder, path, flag);
  }
}

export function refuseSame(folder: string, path: string, flag: string): void {
  if (!isSame(folder, path)) return;
  throw new UserError(
    `Expected a folder of its own for ${FLAG} but received ${folder}, which is that of ${flag} ${path}.`,
    {
      flag: FLAG,
      cure: 'Name another folder, which may be a new one inside of it: a run never writes over the weights that it starts from.',
    },
  );
}

function modelInside(folder: string, path: string, flag: string): UserError {
  return new UserError(
    `Expected a folder without the model for ${FLAG} but received ${folder}, which holds ${flag} ${path}.`,
    {
      flag: '--overwrite_output_dir',
      cure: 'Name another output folder, or leave out --overwrite_output_dir.',
    },
  );
}

/** Whether two paths are one file or folder. Ids of hub models are no paths. */
export function isSame(a: string, b: string): boolean {
  const [first, second] = [a, b].map((path) => (existsSync(path) ? statSync(path, { bigint: true }) : undefined));
  return first !== undefined && second !== undefined && first.dev === second.dev && first.ino === second.ino;
}

function isInside(path: string, folder: string): boolean {
  if (!existsSync(path) || !existsSync(folder)) return false;
  for (let at = realpathSync(path); dirname(at) !== at; at = dirname(at)) if (isSame(at, folder)) return true;
  return false;
}

/** No file that the command line names, or that lies in a folder it names, is removed. */
export function refuseInputs(config: RunConfig, earlier: readonly string[]): void {
  const { output_dir: folder } = config.output;
  if (earlier.length === 0) return;
  const removed = new Map(earlier.map((name) => [realpathSync(join(folder, name)), name]));
  for (const input of inputsOf(config).filter((path) => existsSync(path))) {
    const files = statSync(input).isDirectory() ? readdirSync(input).map((name) => join(input, name)) : [input];
    const found = files.filter((file) => existsSync(file)).find((file) => removed.has(realpathSync(file)));
    if (found === undefined) continue;
    throw new UserError(
      `Expected files of its own for ${input} but ${found} belongs to the earlier run in ${folder}, which would be removed.`,
      {
        file: found,
        flag: '--overwrite_output_dir',
        cure: 'Name another output folder, or copy the file to another place.',
      },
    );
  }
}

/** No picture that the data show is removed with an earlier run. @throws UserError */
export function refuseShown(
  { output: { output_dir: folder } }: RunConfig,
  earlier: readonly string[],
  { dataset, known }: { readonly dataset: Dataset; readonly known: Pick<Preflight, 'filesOf'> },
): void {
  if (earlier.length === 0) return;
  const removed = new Set(earlier.map((name) => fileId(join(folder, name))));
  for (let i = 0; i < dataset.length; i++) {
    const shown = known.filesOf(i).find((file) => removed.has(fileId(file)));
    if (shown !== undefined)
      throw new UserError(
        `Expected pictures of its own for a record but ${shown} belongs to the earlier run in ${folder}, which would be removed.`,
        {
          ...dataset.place(i),
          flag: '--overwrite_output_dir',
          cure: 'Name another output folder, or copy the picture to another place and name it there.',
        },
      );
  }
}

/** The same for all paths of a file; undefined: there is none. */
function fileId(path: string): string | undefined {
  const status = statSync(path, { bigint: true, throwIfNoEntry: false });
  return status && `${status.dev}:${status.ino}`;
}
