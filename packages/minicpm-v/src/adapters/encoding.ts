/**
 * How the records of a training were encoded. Adapters say it in their manifests, checkpoints in config.json. Prompts are always
 * those of inference, as every program writes them: where a training had others, a sentence says so. No import of torch.
 */
import type { RecordEncoding } from '@minicpm-finetune/processor';

/** An adapter and how the records of its training were encoded; null: nobody wrote it down. */
export interface TrainedEncoding {
  readonly adapter: string;
  readonly encoding: RecordEncoding | null;
}

/** By the names of the flags: `compat inference, thinking as_written`. */
export const describeEncoding = ({ compat, thinking }: RecordEncoding): string =>
  `compat ${compat}, thinking ${thinking}`;

/** The encoding of the last adapter that says it; `base` where none does. */
export const encodingOfAdapters = (adapters: readonly TrainedEncoding[], base: RecordEncoding): RecordEncoding =>
  adapters.findLast(({ encoding }) => encoding !== null)?.encoding ?? base;

/** How prompts differ from the records that an adapter, or (null) the model itself, was trained with; empty: they do not. */
export function promptNotices(adapter: string | null, encoding: RecordEncoding | null): string[] {
  const difference = encoding === null ? null : differenceOf(encoding);
  if (difference === null) return [];
  return [adapter === null ? `the model: ${difference}` : `adapter ${adapter}: ${difference}`];
}

function differenceOf({ compat, thinking }: RecordEncoding): string | null {
  if (compat === 'official')
    return "trained with --compat official: prompts are not written as the official training code writes them, but as the model's own chat code does.";
  if (thinking === 'every_turn')
    return 'trained with --thinking every_turn: earlier answers of a prompt have no think blocks, those of the training had.';
  if (thinking === 'as_written')
    return 'trained with --thinking as_written: a prompt ends with an empty think block, which answers without a thought did not have in training.';
  return null;
}
