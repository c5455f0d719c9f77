/**
 * A request of `/v1/chat/completions`, checked. Every field is used, accepted because it changes no answer (`ACCEPTED`), or refused
 * by name. Not here: what needs the model (lengths, ids of tokens: engine/prepare.ts).
 */
import { z } from 'zod';
import { boolean, checked, integer, number, text, unsupported } from './check.js';
import { invalid } from './error.js';
import { checkMessages, type RequestMessage } from './messages.js';

/** Sampling as the request asks for it; null: the checkpoint's. */
interface RequestSampling {
  readonly temperature: number | null;
  readonly topP: number | null;
  readonly topK: number | null;
  readonly minP: number;
  readonly repetitionPenalty: number | null;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  readonly logitBias: ReadonlyMap<number, number>;
  /** null: another one each time. */
  readonly seed: number | null;
}

export interface ChatRequest {
  /** null: the base. */
  readonly model: string | null;
  readonly messages: readonly RequestMessage[];
  readonly maxTokens: { readonly value: number; readonly param: string } | null;
  readonly sampling: RequestSampling;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly ignoreEos: boolean;
  readonly n: number;
  /** How many of the most likely tokens to tell besides the chosen one; null: no log probabilities. */
  readonly logProbs: number | null;
  readonly maxSliceNums: number | null;
  /** Whether the model thinks before it answers. */
  readonly enableThinking: boolean;
  readonly stream: boolean;
  readonly usage: 'none' | 'last' | 'every';
  /** Fields that were given and change nothing. */
  readonly idle: readonly string[];
}

const MOST_STOPS = 16;
const MOST_CHOICES = 8;

/** Fields of OpenAI's that change no answer here. */
const ACCEPTED = [
  'user',
  'metadata',
  'store',
  'service_tier',
  'parallel_tool_calls',
  'reasoning_effort',
  'safety_identifier',
  'prompt_cache_key',
  'verbosity',
] as const;

/** Fields that ask for what the models cannot do, unless they have one of these values. */
const UNSUPPORTED: Readonly<Record<string, (value: unknown) => boolean>> = {
  tools: (value) => Array.isArray(value) && value.length === 0,
  tool_choice: (value) => value === 'none',
  functions: (value) => Array.isArray(value) && value.length === 0,
  function_call: (value) => value === 'none',
  audio: () => false,
  modalities: (value) => JSON.stringify(value) === '["text"]',
  prediction: () => false,
  web_search_options: () => false,
  response_format: (value) => typeof value === 'object' && JSON.stringify(value) === '{"type":"text"}',
};

const stopText = text('a string of at least one character').min(1, { error: 'a string of at least one character' });
const any = z.unknown().optional();

const FORM = z.strictObject({
  model: text().nullish(),
  messages: any,
  max_completion_tokens: integer(1, Number.MAX_SAFE_INTEGER).nullish(),
  max_tokens: integer(1, Number.MAX_SAFE_INTEGER).nullish(),
  temperature: number(0, 2).nullish(),
  top_p: z
    .number({ error: 'a number above 0 and of at most 1' })
    .gt(0, { error: 'a number above 0 and of at most 1' })
    .max(1, { error: 'a number above 0 and of at most 1' })
    .nullish(),
  seed: integer(0, Number.MAX_SAFE_INTEGER).nullish(),
  top_k: integer(-1, Number.MAX_SAFE_INTEGER).nullish(),
  min_p: number(0, 1).nullish(),
  repetition_penalty: z
    .number({ error: 'a number above 0 and of at most 2' })
    .gt(0, { error: 'a number above 0 and of at most 2' })
    .max(2, { error: 'a number above 0 and of at most 2' })
    .nullish(),
  frequency_penalty: number(-2, 2).nullish(),
  presence_penalty: number(-2, 2).nullish(),
  logit_bias: z.record(z.string(), number(-100, 100), { error: 'an object of ids of tokens and numbers' }).nullish(),
  stop: any,
  stop_token_ids: z
    .array(integer(0, Number.MAX_SAFE_INTEGER), { error: 'a list of ids of tokens' })
    .max(MOST_STOPS, { error: `at most ${MOST_STOPS} ids of tokens` })
    .nullish(),
  ignore_eos: boolean().nullish(),
  n: integer(1, MOST_CHOICES).nullish(),
  logprobs: boolean().nullish(),
  top_logprobs: integer(0, 20).nullish(),
  mm_processor_kwargs: z
    .strictObject({ max_slice_nums: integer(1, 1000).nullish() }, { error: 'an object like {"max_slice_nums": 4}' })
    .nullish(),
  chat_template_kwargs: z
    .strictObject({ enable_thinking: boolean().nullish() }, { error: 'an object like {"enable_thinking": true}' })
    .nullish(),
  stream: boolean().nullish(),
  stream_options: z
    .strictObject(
      {
        include_usage: boolean().nullish(),
        continuous_usage_stats: boolean().nullish(),
        include_obfuscation: boolean().nullish(),
      },
      { error: 'an object like {"include_usage": true}' },
    )
    .nullish(),
  ...Object.fromEntries([...ACCEPTED, ...Object.keys(UNSUPPORTED)].map((key) => [key, any])),
});
type Form = z.infer<typeof FORM>;

/** @throws ApiError for the first field that is wrong, unknown or not supported */
export function checkChatRequest(body: unknown): ChatRequest {
  const object = checked(z.looseObject({}, { error: 'an object' }), body);
  for (const [key, harmless] of Object.entries(UNSUPPORTED)) {
    const value = object[key];
    if (value !== undefined && value !== null && !harmless(value))
      throw unsupported(key, key, 'Leave it out: answers are text.');
  }
  const form = checked(FORM, object);
  const checkedMessages = checkMessages(form.messages);
  return {
    model: form.model ?? null,
    messages: checkedMessages,
    maxTokens: maxTokensOf(form),
    sampling: samplingOf(form),
    stop: stopsOf(form.stop),
    stopTokenIds: form.stop_token_ids ?? [],
    ignoreEos: form.ignore_eos ?? false,
    n: form.n ?? 1,
    logProbs: logProbsOf(form),
    maxSliceNums: form.mm_processor_kwargs?.max_slice_nums ?? null,
    enableThinking: form.chat_template_kwargs?.enable_thinking ?? false,
    stream: form.stream ?? false,
    usage: usageOf(form),
    idle: [
      ...(checkedMessages.some(({ name }) => name !== null) ? ['messages[].name'] : []),
      ...ACCEPTED.filter((key) => (object[key] ?? null) !== null),
      ...(form.stream_options?.include_obfuscation ? ['stream_options.include_obfuscation'] : []),
    ],
  };
}

function maxTokensOf({ max_completion_tokens: now, max_tokens: older }: Form): ChatRequest['maxTokens'] {
  if (typeof now === 'number' && typeof older === 'number' && now !== older) {
    const message = `Expected one of max_completion_tokens and max_tokens but received both, ${now} and ${older}.`;
    throw invalid(message, 'max_tokens');
  }
  if (typeof now === 'number') return { value: now, param: 'max_completion_tokens' };
  return typeof older === 'number' ? { value: older, param: 'max_tokens' } : null;
}

function samplingOf(form: Form): RequestSampling {
  const bias = Object.entries(form.logit_bias ?? {}).map(([id, value]): [number, number] => {
    if (/^\d{1,9}$/.test(id)) return [Number(id), value];
    throw invalid(
      `Expected ids of tokens for the keys of logit_bias but received ${JSON.stringify(id.slice(0, 40))}.`,
      'logit_bias',
    );
  });
  return {
    temperature: form.temperature ?? null,
    topP: form.top_p ?? null,
    topK: typeof form.top_k === 'number' ? Math.max(0, form.top_k) : null,
    minP: form.min_p ?? 0,
    repetitionPenalty: form.repetition_penalty ?? null,
    frequencyPenalty: form.frequency_penalty ?? 0,
    presencePenalty: form.presence_penalty ?? 0,
    logitBias: new Map(bias),
    seed: form.seed ?? null,
  };
}

function stopsOf(stop: unknown): string[] {
  if (stop === undefined || stop === null) return [];
  if (typeof stop === 'string') return [checked(stopText, stop, ['stop'])];
  const list = checked(
    z
      .array(stopText, { error: 'a string or a list of strings' })
      .max(MOST_STOPS, { error: `at most ${MOST_STOPS} strings` }),
    stop,
    ['stop'],
  );
  return [...new Set(list)];
}

function logProbsOf({ logprobs, top_logprobs: top }: Form): number | null {
  if (logprobs === true) return top ?? 0;
  if (typeof top === 'number' && top > 0)
    throw invalid(`Expected logprobs true beside top_logprobs but received top_logprobs ${top} alone.`, 'top_logprobs');
  return null;
}

function usageOf({ stream, stream_options: options }: Form): ChatRequest['usage'] {
  if (options === undefined || options === null) return 'none';
  if (stream !== true)
    throw invalid('Expected stream_options with stream true only but stream is not set.', 'stream_options');
  if (options.continuous_usage_stats === true) return 'every';
  return options.include_usage === true ? 'last' : 'none';
}
