/**
 * The vocabulary as llama.cpp has it. The key-values of `tokenizer.ggml`, from tokenizer.json and tokenizer_config.json,
 * and from tokenizer.model where it is there. Not here: the chat template (chat-template.ts).
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ModelConfig } from '@minicpm-finetune/processor';
import { parseJson, shown, UserError } from '@minicpm-finetune/run';
import { familyOf } from './families.js';
import type { GgufValue } from './format.js';
import { readPieces } from './sentencepiece.js';

const NORMAL = 1;
const UNKNOWN = 2;
const CONTROL = 3;
const USER_DEFINED = 4;
const UNUSED = 5;
const BYTE = 6;

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** The parts of tokenizer.json that are read. */
interface TokenizerFile {
  readonly added_tokens?: readonly AddedToken[];
  readonly normalizer?: unknown;
  readonly model: {
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (string | readonly [string, string])[];
    readonly unk_token?: string | null;
  };
}

interface Entry {
  text: string;
  type: number;
  score: number;
}

const CURE = 'Use the tokenizer files that the weights were published with.';

function readFile<T>(folder: string, name: string): T {
  const file = join(folder, name);
  return parseJson(readFileSync(file, 'utf8'), { what: 'the tokenizer', file, cure: CURE }) as T;
}

export interface Vocabulary {
  readonly metadata: Map<string, GgufValue>;
  /** What llama.cpp does otherwise with text. */
  readonly notices: readonly string[];
}

/** @throws UserError for a vocabulary that llama.cpp cannot load */
export function vocabularyOf(config: ModelConfig, folder: string): Vocabulary {
  const { pre } = familyOf(config);
  const file = readFile<TokenizerFile>(folder, 'tokenizer.json');
  const settings = readFile<Record<string, unknown>>(folder, 'tokenizer_config.json');
  const bytePairs = pre !== 'default'; // else SentencePiece's
  const entries = bytePairs ? bytePairEntries(file) : pieceEntries(file, folder);
  for (const token of file.added_tokens ?? []) entries.set(token.id, addedEntry(token));
  const size = config.llm.vocabSize;
  const all = Array.from({ length: size }, (_, id) => entries.get(id) ?? unusedEntry(id, bytePairs));
  refuseTwins(all, folder);
  const metadata = new Map<string, GgufValue>([
    ['tokenizer.ggml.model', { type: 'string', value: bytePairs ? 'gpt2' : 'llama' }],
    ['tokenizer.ggml.pre', { type: 'string', value: pre }],
    ['tokenizer.ggml.tokens', { type: 'array', of: 'string', value: all.map(({ text }) => text) }],
  ]);
  const types: GgufValue = { type: 'array', of: 'i32', value: all.map(({ type }) => type) };
  if (bytePairs) {
    metadata.set('tokenizer.ggml.token_type', types);
    metadata.set('tokenizer.ggml.merges', { type: 'array', of: 'string', value: file.model.merges.map(mergeText) });
  } else {
    metadata.set('tokenizer.ggml.scores', { type: 'array', of: 'f32', value: all.map(({ score }) => score) });
    metadata.set('tokenizer.ggml.token_type', types);
  }
  addSpecialTokens(metadata, file, settings, bytePairs);
  const notices = JSON.stringify(file.normalizer ?? null).includes('"NFC"')
    ? [
        'llama.cpp does not normalise text (Unicode NFC) as this tokenizer does: text with combining characters gets other tokens there.',
      ]
    : [];
  return { metadata, notices };
}

/** `a b`; a space within a part is written as the byte-level vocabulary has it. */
function mergeText(merge: string | readonly [string, string]): string {
  return typeof merge === 'string' ? merge : merge.map((part) => part.replaceAll(' ', 'Ġ')).join(' ');
}

function bytePairEntries({ model }: TokenizerFile): Map<number, Entry> {
  return new Map(Object.entries(model.vocab).map(([text, id]) => [id, { text, type: NORMAL, score: 0 }]));
}

/** SentencePiece's pieces: from its own file, or from what transformers made of it, where merges have ranks in place of scores. */
function pieceEntries({ model }: TokenizerFile, folder: string): Map<number, Entry> {
  const own = join(folder, 'tokenizer.model');
  if (existsSync(own)) {
    try {
      return new Map(readPieces(own).map((piece, id) => [id, { ...piece }]));
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      throw new UserError(`Expected a SentencePiece model but received a damaged file: ${cause.message}.`, {
        file: own,
        cure: CURE,
        cause,
      });
    }
  }
  const ranks = new Map<string, number>();
  model.merges.forEach((merge, rank) => {
    const text = (typeof merge === 'string' ? merge.split(' ') : merge).join('');
    if (!ranks.has(text)) ranks.set(text, rank);
  });
  const singles = model.merges.length; // pieces that no merge makes come after all others
  return new Map(
    Object.entries(model.vocab).map(([text, id]) => {
      const byte = /^<0x[0-9A-F]{2}>$/.test(text);
      const type = text === model.unk_token ? UNKNOWN : byte ? BYTE : NORMAL;
      return [id, { text, type, score: type === NORMAL ? -(ranks.get(text) ?? singles + id) : 0 }];
    }),
  );
}

/** Tokens that are marks by their look count as special, whatever the tokenizer says. */
function addedEntry({ content, special }: AddedToken): Entry {
  const control = special || /^<\|.*\|>$/.test(content);
  return {
    text: control ? content : content.replaceAll('\u2581', ' '),
    type: control ? CONTROL : USER_DEFINED,
    score: -1000,
  };
}

/** Rows of the token table that have no token. */
const unusedEntry = (id: number, bytePairs: boolean): Entry => ({
  text: `[PAD${id}]`,
  type: UNUSED,
  score: bytePairs ? 0 : -10_000,
});

function refuseTwins(entries: readonly Entry[], folder: string): void {
  const ids = new Map<string, number>();
  entries.forEach(({ text }, id) => {
    const twin = ids.get(text);
    if (twin !== undefined)
      throw new UserError(
        `Expected tokens of different texts for llama.cpp but received ${shown(text)} as the tokens ${twin} and ${id}.`,
        { file: join(folder, 'tokenizer.json'), cure: CURE },
      );
    ids.set(text, id);
  });
}

const tokenName = (value: unknown): unknown =>
  typeof value === 'string' ? value : (value as { content?: unknown } | null | undefined)?.content;

/** Ids of the special tokens, and which of them llama.cpp puts around a prompt. */
function addSpecialTokens(
  metadata: Map<string, GgufValue>,
  { added_tokens = [] }: TokenizerFile,
  settings: Readonly<Record<string, unknown>>,
  bytePairs: boolean,
): void {
  const ids = new Map(added_tokens.map(({ content, id }) => [content as unknown, id]));
  for (const [key, name] of [
    ['bos', 'bos'],
    ['eos', 'eos'],
    ['unk', 'unknown'],
    ['pad', 'padding'],
  ] as const) {
    const id = ids.get(tokenName(settings[`${key}_token`]));
    if (id !== undefined) metadata.set(`tokenizer.ggml.${name}_token_id`, { type: 'u32', value: id });
  }
  const add = (key: string, value: boolean): Map<string, GgufValue> =>
    metadata.set(`tokenizer.ggml.add_${key}_token`, { type: 'bool', value });
  // byte-level templates write a first token themselves
  add('bos', !bytePairs && settings.add_bos_token !== false);
  if (bytePairs) return;
  add('sep', false);
  add('eos', settings.add_eos_token === true);
}
