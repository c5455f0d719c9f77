/**
 * What makes the answers besides the records. The model by its content, and the settings. Kept in
 * `<output>.settings.json`; a file is resumed only if nothing differs.
 */
import type { ModelIdentity } from '@minicpm-finetune/minicpm-v';
import type { SliceConfig } from '@minicpm-finetune/processor';
import { shown, UserError } from '@minicpm-finetune/run';
import { z } from 'zod';
import { videoFlags } from '../../data/video-flags.js';
import type { AnswerFileOptions } from './options.js';

const CONTENT = z.string();
const FORM = z.object({
  /** Format 1 had no such key, and knew model and adapters by their paths. */
  format: z.literal(2),
  made_by: z.literal('minicpm-finetune generate'),
  model: z.object({ path: z.string(), weights: CONTENT, config: CONTENT, tokenizer: CONTENT }),
  adapters: z.array(z.object({ path: z.string(), content: CONTENT })),
  /** How pictures are cut; null: not at all. */
  slices: z.object({ max_slice_nums: z.int(), scale_resolution: z.int() }).nullable(),
  settings: z.object({
    allow_special_text: z.boolean(),
    max_new_tokens: z.number(),
    temperature: z.number(),
    top_p: z.number(),
    top_k: z.number(),
    repetition_penalty: z.number(),
    seed: z.number(),
    /** null: that of the weights. */
    dtype: z.string().nullable(),
    /** Files of earlier versions have none of these keys. */
    load_in_8bit: z.boolean().default(false),
    enable_thinking: z.boolean().default(false),
    video_fps: z.number().nullable().default(null),
    video_max_frames: z.number().nullable().default(null),
    video_max_packing: z.number().nullable().default(null),
    video_max_slice_nums: z.number().nullable().default(null),
  }),
});

export type AnswerSettings = z.infer<typeof FORM>;

/** The settings of what is asked now. */
export function settingsOf(
  options: AnswerFileOptions,
  { weights, config, tokenizer, adapters }: ModelIdentity,
  sliceConfig: SliceConfig | null,
): AnswerSettings {
  const { maxNewTokens, temperature, topP, topK, repetitionPenalty, seed } = options;
  const { dtype, loadIn8Bit, allowSpecialText, enableThinking, video } = options;
  return {
    format: 2,
    made_by: 'minicpm-finetune generate',
    model: { path: options.model, weights, config, tokenizer },
    adapters: adapters.map((content, i) => ({ path: options.adapters[i]!, content })),
    slices: sliceConfig && { max_slice_nums: sliceConfig.maxSliceNums, scale_resolution: sliceConfig.scaleResolution },
    settings: {
      allow_special_text: allowSpecialText,
      max_new_tokens: maxNewTokens,
      temperature,
      top_p: topP,
      top_k: topK,
      repetition_penalty: repetitionPenalty,
      seed,
      dtype,
      load_in_8bit: loadIn8Bit,
      enable_thinking: enableThinking,
      ...videoFlags(video),
    },
  };
}

/** Reads the text of a settings file; null: it is none of this program. */
export function readSettings(text: string): AnswerSettings | 'of an earlier version' | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  const read = FORM.safeParse(value);
  if (read.success) return read.data;
  const keys = Object.keys((value ?? {}) as object);
  return ['model', 'adapters', 'data', 'max_new_tokens'].every((key) => keys.includes(key))
    ? 'of an earlier version'
    : null;
}

/** What differs between the settings of the answers that are there and of those asked now, each as a phrase. */
function differences(before: AnswerSettings, now: AnswerSettings): string[] {
  const found: string[] = [];
  const model = {
    weights: 'the weights',
    config: 'config.json',
    tokenizer: 'the tokenizer or its chat template',
  } as const;
  for (const [key, what] of Object.entries(model) as [keyof typeof model, string][])
    if (before.model[key] !== now.model[key]) found.push(`${what} of --model ${now.model.path}: the content differs`);
  if (before.adapters.length !== now.adapters.length)
    found.push(`--adapter: ${pathsOf(before)} then, ${pathsOf(now)} now`);
  else
    now.adapters.forEach(({ path, content }, i) => {
      const was = before.adapters[i]!;
      if (was.content === content) return;
      found.push(
        `--adapter ${path}: ${was.path === path ? 'the content differs' : `the content is not that of ${was.path}`}`,
      );
    });
  for (const key of ['max_slice_nums', 'scale_resolution'] as const)
    if (before.slices?.[key] !== now.slices?.[key])
      found.push(`${key}: ${shown(before.slices?.[key])} then, ${shown(now.slices?.[key])} now`);
  for (const key of Object.keys(now.settings) as (keyof AnswerSettings['settings'])[])
    if (before.settings[key] !== now.settings[key])
      found.push(`--${key}: ${shown(before.settings[key])} then, ${shown(now.settings[key])} now`);
  return found;
}

const pathsOf = ({ adapters }: AnswerSettings): string =>
  adapters.length === 0 ? 'none' : adapters.map(({ path }) => path).join(', ');

/** @throws UserError that lists all that differs */
export function compareSettings(before: AnswerSettings, now: AnswerSettings, output: string): void {
  const found = differences(before, now);
  if (found.length === 0) return;
  throw new UserError(
    `Expected the answers of the same model and settings in the output file but received answers made with other ones: ${found.join('; ')}.`,
    {
      file: output,
      flag: '--output',
      cure: `Give another file for the answers asked now, or what made those in ${output} to resume it.`,
    },
  );
}
