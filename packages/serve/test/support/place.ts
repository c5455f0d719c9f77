/** A tiny base with three adapters, and requests to it. */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import type OpenAI from 'openai';
import { expect } from 'vitest';
import { randomAdapter } from '../../../minicpm-v/test/support/random-adapter.js';
import { noise, type Serving, type ServingOptions, serving, workFolder } from './serving.js';

export type Request = OpenAI.ChatCompletionCreateParamsNonStreaming & { ignore_eos?: boolean };
/** Answers go on to their longest. */
export const ON = { ignore_eos: true };

export interface Place {
  readonly work: string;
  readonly base: string;
  readonly picture: string;
  /** Named a0, a1 (DoRA) and a2; each has a resampler of its own. */
  readonly adapters: readonly { readonly name: string; readonly folder: string }[];
  remove(): void;
  start(options?: ServingOptions, folder?: string): Promise<Serving>;
  request(model: string, text: string, extra?: Partial<Request>): Request;
}

export async function makePlace(): Promise<Place> {
  const { work, base, remove } = workFolder();
  const picture = await noise(work, 90, 60, 1);
  const adapters = [false, true, false].map((dora, i) => {
    const folder = join(mkdtempSync(join(work, 'a-')), 'adapter');
    return { name: `a${i}`, folder: randomAdapter(base, folder, i + 1, { useDora: dora }) };
  });
  const request = (model: string, text: string, extra: Partial<Request> = {}): Request => {
    const content = [
      { type: 'image_url' as const, image_url: { url: picture } },
      { type: 'text' as const, text },
    ];
    return { model, max_tokens: 12, temperature: 0, messages: [{ role: 'user', content }], ...extra };
  };
  const start = (options: ServingOptions = {}, folder = base): Promise<Serving> => serving(folder, options);
  return { work, base, picture, adapters, remove, start, request };
}

/** Ends a server in which nothing went wrong. */
export async function stop(here: Serving): Promise<void> {
  await here.close();
  expect(here.errors).toEqual([]);
}

export const textOf = async (client: OpenAI, one: Request): Promise<string | null> =>
  (await client.chat.completions.create(one)).choices[0]!.message.content;

/** Waits until something is so; the test's own limit ends it. */
export async function until(so: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await so())) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** A number of the metrics. */
export const gauge = (here: Serving, name: string): number =>
  Number(new RegExp(`^minicpm_serve_${name} (.*)$`, 'm').exec(here.engine.metricsText())![1]);
