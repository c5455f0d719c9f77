/** The flags of `minicpm-finetune chat` as data, and the options they resolve to. */

import { type FlagSpec, flagsOf, type GivenValues } from '../../config/flags.js';
import { CONFIG_FLAGS } from '../../config/run-flags.js';
import { flagValue, requiredValue } from '../cli-command.js';
import type { CommandText } from '../command.js';
import type { ChatOptions } from './options.js';

/** Which model a command uses, and on what. */
export const MODEL_FLAGS = {
  model: { kind: 'string', required: true, placeholder: 'dir|hub-id', help: 'Checkpoint to talk to.' },
  cache_dir: CONFIG_FLAGS.model.cache_dir,
  adapter: {
    kind: 'strings',
    default: [],
    placeholder: 'dir',
    help: 'Adapter to put on it; given several times, each goes on what the ones before made of it.',
  },
  dtype: {
    kind: 'choice',
    choices: ['float32', 'bfloat16', 'float16'],
    default: null,
    help: "Type to compute in; the weights' own unless given.",
  },
  device: {
    kind: 'choice',
    choices: ['auto', 'cpu', 'cuda', 'mps'],
    default: 'auto',
    help: 'Where to compute; auto: the best there is.',
  },
  threads: { kind: 'integer', min: 1, default: null, help: 'Threads of libtorch; one per physical core unless given.' },
} as const satisfies Record<string, FlagSpec>;

const CONVERSATION = {
  image: {
    kind: 'strings',
    default: [],
    placeholder: 'file',
    help: 'Picture to ask about; may be given several times.',
  },
  prompt: { kind: 'string', default: null, help: 'One question to answer; without it, a conversation starts.' },
  system: { kind: 'string', default: null, help: 'System prompt.' },
  max_slice_nums: {
    kind: 'integer',
    min: 1,
    default: null,
    help: "Most slices a picture is cut into; the checkpoint's unless given.",
  },
} as const satisfies Record<string, FlagSpec>;

/** How answers are made. */
export const SAMPLING_FLAGS = {
  max_new_tokens: { kind: 'integer', min: 1, default: 1024, help: 'Longest answer in tokens.' },
  temperature: { kind: 'number', min: 0, default: 0, help: 'Randomness; 0: always the most likely token.' },
  top_p: {
    kind: 'number',
    above: 0,
    max: 1,
    default: 1,
    help: 'Choose among the likeliest tokens with this much probability.',
  },
  top_k: { kind: 'integer', min: 0, default: 0, help: 'Choose among this many likeliest tokens; 0: among all.' },
  repetition_penalty: {
    kind: 'number',
    above: 0,
    default: 1,
    help: 'Above 1: tokens already used become less likely.',
  },
  seed: { kind: 'integer', min: 0, default: 42, help: 'Seed of the random choices.' },
} as const satisfies Record<string, FlagSpec>;

export const CHAT_FLAGS = flagsOf({ model: MODEL_FLAGS, conversation: CONVERSATION, sampling: SAMPLING_FLAGS });

export const CHAT_TEXT: CommandText = {
  name: 'chat',
  summary: 'Ask a model about pictures.',
  description: [
    'Talks with a checkpoint, with or without adapters on it, in the terminal. Answers appear as they are made.',
    "MiniCPM-V's own demos sample: --temperature 0.7 --top_p 0.8 --top_k 100 --repetition_penalty 1.05.",
  ].join('\n'),
  headings: { model: 'Model:', conversation: 'Conversation:', sampling: 'Answers:' },
  examples: [
    'Examples:',
    '',
    '  One answer, on standard output:',
    '',
    '    minicpm-finetune chat --model openbmb/MiniCPM-V-2_6 --image invoice.png --prompt "What is the total?"',
    '',
    '  A conversation with your adapter:',
    '',
    '    minicpm-finetune chat --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices --image invoice.png',
  ].join('\n'),
};

/** @throws UserError without a model. */
export function resolveChatOptions(given: GivenValues): ChatOptions {
  const value = <T>(name: string): T => flagValue<T>(given, CHAT_FLAGS.find((flag) => flag.name === name)!);
  return Object.freeze({
    model: requiredValue<string>(given, CHAT_FLAGS, 'model'),
    adapters: value<string[]>('adapter'),
    images: value<string[]>('image'),
    prompt: value<string | null>('prompt'),
    system: value<string | null>('system'),
    maxNewTokens: value<number>('max_new_tokens'),
    temperature: value<number>('temperature'),
    topP: value<number>('top_p'),
    topK: value<number>('top_k'),
    repetitionPenalty: value<number>('repetition_penalty'),
    seed: value<number>('seed'),
    dtype: value<ChatOptions['dtype']>('dtype'),
    maxSliceNums: value<number | null>('max_slice_nums'),
    device: value<ChatOptions['device']>('device'),
    threads: value<number | null>('threads'),
  });
}
