/**
 * Opens what a configuration names, as a start would. For `--dry_run`; nothing is
 * written or downloaded.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint } from '@minicpm-finetune/minicpm-v';
import { requireCheckpoint } from '@minicpm-finetune/processor';
import { latestCheckpoint, pathCure, type RunConfig, shown, UserError } from '@minicpm-finetune/run';
import { Dataset } from '../data/dataset.js';
import { Encoder, encoderSetup } from '../data/encoder.js';
import { localModel, requireRepoId } from '../hub/hub.js';
import { requireWritable } from './writable-folder.js';

/**
 * Opens model, tokenizer, data, adapter and checkpoint of a run, and looks whether its folder can be written.
 *
 * @returns notices
 * @throws UserError for the first that is not there, or is something else
 */
export async function checkNamedFiles(config: RunConfig): Promise<string[]> {
  const notices: string[] = [];
  await checkModel(config, notices);
  await checkData(config.data.data_path, '--data_path', notices);
  if (config.data.eval_data_path.length > 0) await checkData(config.data.eval_data_path, '--eval_data_path', notices);
  const { lora_weight_path: adapter } = config.lora;
  if (adapter !== null) requireAdapter(adapter);
  checkResume(config);
  requireWritable(config.output.output_dir);
  return notices;
}

async function checkModel({ model, data }: RunConfig, notices: string[]): Promise<void> {
  const { model_name_or_path: named, cache_dir: cacheDir } = model;
  const place = { flag: '--model_name_or_path', adapterFlag: '--lora_weight_path' } as const;
  if (existsSync(named)) requireCheckpoint(named, place);
  else requireRepoId(named, place.flag);
  const folder = localModel(named, cacheDir);
  if (folder === null) {
    notices.push(`there is no folder ${named}: a start would download the model of that name from the hub.`);
    return;
  }
  await Encoder.open(encoderSetup(folder, model, data));
  if (existsSync(named)) openCheckpoint(named); // a snapshot in the cache may be there without its weights
}

async function checkData(paths: readonly string[], flag: string, notices: string[]): Promise<void> {
  try {
    const data = await Dataset.open(paths, (message) => notices.push(message));
    await data.close();
  } catch (error) {
    if (!(error instanceof UserError) || error.flag === undefined) throw error;
    throw new UserError(error.message, { ...error.details(), flag });
  }
}

function requireAdapter(folder: string): void {
  const missing = ['adapter_config.json', 'adapter_model.safetensors'].find((name) => !existsSync(join(folder, name)));
  if (missing === undefined) return;
  throw new UserError(
    `Expected an adapter folder with ${missing} for --lora_weight_path but received ${shown(folder)}.`,
    {
      flag: '--lora_weight_path',
      cure: existsSync(folder)
        ? 'Give the folder where training saved the adapter.'
        : pathCure(folder, 'Check the path.'),
    },
  );
}

function checkResume({ save, output }: RunConfig): void {
  const { resume_from_checkpoint: asked } = save;
  if (asked === null) return;
  const folder = asked === 'latest' ? latestCheckpoint(output.output_dir)?.path : asked;
  if (folder !== undefined && existsSync(folder)) return;
  throw new UserError(
    `Expected a checkpoint for --resume_from_checkpoint but ${folder === undefined ? `${shown(output.output_dir)} has none` : `${shown(folder)} is not there`}.`,
    {
      flag: '--resume_from_checkpoint',
      cure: pathCure(folder ?? output.output_dir, 'Name a checkpoint-<step> folder, or leave the flag out.'),
    },
  );
}
