/** How a checkpoint wants its answers sampled. It is in `generation_config.json`; without one, or where it does not sample, decoding is greedy. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readJson, shown, UserError } from '@minicpm-finetune/run';
import { z } from 'zod';

const FILE = 'generation_config.json';

const FORM = z.looseObject({
  do_sample: z.boolean().nullish(),
  temperature: z.number().min(0).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().min(0).nullish(),
  repetition_penalty: z.number().gt(0).nullish(),
});

export interface SamplingDefaults {
  /** 0: greedy. */
  readonly temperature: number;
  readonly topP: number;
  /** 0: all. */
  readonly topK: number;
  readonly repetitionPenalty: number;
}

/** @throws UserError for a file that is damaged */
export function samplingDefaults(folder: string): SamplingDefaults {
  const file = join(folder, FILE);
  const raw = existsSync(file) ? readJson(file, FILE) : {};
  const form = FORM.safeParse(raw);
  if (!form.success) {
    const { path, message } = form.error.issues[0]!;
    throw new UserError(
      `Expected settings of sampling in ${FILE} but ${path.join('.') || 'the file'} is ${shown((raw as Record<PropertyKey, unknown> | null)?.[path[0] ?? ''])}.`,
      {
        file,
        cure: `${message}.`,
      },
    );
  }
  const { do_sample: samples, temperature, top_p: topP, top_k: topK, repetition_penalty: penalty } = form.data;
  return {
    temperature: samples === true ? (temperature ?? 1) : 0,
    topP: topP ?? 1,
    topK: topK ?? 0,
    repetitionPenalty: penalty ?? 1,
  };
}
