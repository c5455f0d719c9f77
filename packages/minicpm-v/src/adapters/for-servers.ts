/**
 * Folders for programs that serve models: vLLM, SGLang. A checkpoint with adapters merged into it, complete with code and
 * processor, or an adapter alone. Not here: merging (merge.ts), GGUF (gguf/).
 */
import { cpSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { readConfig } from '@minicpm-finetune/processor';
import { readJson, shownNames, UserError } from '@minicpm-finetune/run';
import { scope, writeSafetensors } from '@minicpm-finetune/torch';
import { inNewFolder } from '../checkpoint/new-folder.js';
import { loadWeights, saveCheckpoint } from '../checkpoint/weights.js';
import { MiniCPMV } from '../model/minicpm-v.js';
import { CONFIG_FILE, readAdapterConfig } from './config.js';
import { promptNotices } from './encoding.js';
import { type MergeOptions, mergeCheckpoint } from './merge.js';
import { WEIGHTS_FILE } from './side-files.js';
import { openAdapterWeights } from './weights-file.js';

export interface ServedCheckpoint {
  readonly tensors: number;
  /** Of them, those that adapters changed. */
  readonly changed: number;
  readonly notices: readonly string[];
}

/** Files without which a server does not start, beside the code that config.json names. */
const NEEDED = ['tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json'];

/**
 * Writes a checkpoint, with adapters merged, into a new folder: all tensors under the published names, configuration, tokenizer,
 * processor and code.
 *
 * @throws UserError as `mergeCheckpoint` does
 */
export function exportCheckpoint(options: MergeOptions): ServedCheckpoint {
  const { tensors, changed, notices } =
    options.adapters.length > 0 ? mergeCheckpoint(options) : copyCheckpoint(options);
  const missing = missingFiles(options.output);
  if (missing.length === 0) return { tensors, changed, notices };
  return {
    tensors,
    changed,
    notices: [
      ...notices,
      `${options.model} has no ${shownNames(missing)}: vLLM and SGLang need these files. Copy them from the published model into ${options.output}.`,
    ],
  };
}

function copyCheckpoint({ model: folder, output, dtype, maxShardBytes }: MergeOptions): ServedCheckpoint {
  return inNewFolder(output, { what: 'the exported model', flag: '--output' }, (unfinished, claim) => {
    const model = new MiniCPMV(readConfig(folder));
    try {
      const source = loadWeights(model, folder, dtype === undefined ? {} : { dtype });
      saveCheckpoint(model, unfinished, {
        source,
        onBytes: claim,
        ...(maxShardBytes === undefined ? {} : { maxShardBytes }),
      });
      return { tensors: source.tensors.infos.size, changed: 0, notices: promptNotices(null, model.config.encoding) };
    } finally {
      model.dispose();
    }
  });
}

/** Names of files that servers need and a folder lacks. */
function missingFiles(folder: string): string[] {
  const config = readJson(join(folder, 'config.json'), 'config.json') as {
    readonly auto_map?: Record<string, unknown>;
  };
  const code = Object.values(config.auto_map ?? {}).flatMap((name) =>
    typeof name === 'string' ? [`${name.slice(0, name.lastIndexOf('.'))}.py`] : [],
  );
  return [...new Set([...NEEDED, ...code])].filter((name) => !existsSync(join(folder, name)));
}

export interface ServedAdapter {
  readonly tensors: number;
  /** Modules that were left out. */
  readonly stripped: readonly string[];
}

const LOW_RANK = /\.lora_[AB]\.weight$/;

/**
 * Copies an adapter into a new folder, in PEFT's layout. `strip`: without the modules and biases that were saved whole, which servers of
 * low-rank parts refuse.
 *
 * @throws UserError for an adapter that servers refuse in any case
 */
export function exportServedAdapter(adapter: string, output: string, strip: boolean): ServedAdapter {
  const { lora } = readAdapterConfig(adapter);
  if (lora.useDora)
    throw new UserError(`Expected an adapter without DoRA, which servers of adapters refuse, but ${adapter} has it.`, {
      flag: '--lora',
      cure: 'Leave --lora out: the adapter is then merged.',
    });
  const source = openAdapterWeights(adapter);
  const whole = [...source.infos.keys()].filter((name) => !LOW_RANK.test(name));
  if (whole.length > 0 && !strip)
    throw new UserError(
      `Expected low-rank parts alone, as servers of adapters take them, but ${adapter} has modules that were trained whole: ${shownNames(whole)}.`,
      {
        flag: '--lora',
        cure: 'Leave --lora out: the adapter is then merged. Or give --strip_modules_to_save, which changes the answers.',
      },
    );
  return inNewFolder(output, { what: 'the exported adapter', flag: '--output' }, (folder) => {
    const names = [...source.infos.keys()].filter((name) => LOW_RANK.test(name));
    if (whole.length === 0) cpSync(join(adapter, WEIGHTS_FILE), join(folder, WEIGHTS_FILE));
    else
      scope(() =>
        writeSafetensors(join(folder, WEIGHTS_FILE), new Map(names.map((name) => [name, source.tensor(name)]))),
      );
    const config = JSON.parse(readFileSync(join(adapter, CONFIG_FILE), 'utf8')) as Record<string, unknown>;
    const stripped = whole.length === 0 ? config : { ...config, modules_to_save: null, bias: 'none' };
    writeFileSync(join(folder, basename(CONFIG_FILE)), `${JSON.stringify(stripped, null, 2)}\n`);
    return { tensors: names.length, stripped: whole };
  });
}
