/**
 * What makes the answers of a model, known by content. Its weights, its adapters, its configuration, and how it writes a
 * conversation as tokens. Two folders with the same identity give the same answers to the same prompts; where they are does not matter.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type ChatMessage, type ModelConfig, TOKENIZER_FILES } from '@minicpm-finetune/processor';
import { atOnce, fileState, inTurns, type Steps } from '@minicpm-finetune/run';
import { modelOrigin } from '../adapters/family.js';
import { inspectAdapter } from '../adapters/folder.js';
import { openAdapterWeights } from '../adapters/weights-file.js';
import { fingerprinting, type HashProgress } from '../checkpoint/content.js';
import { openCheckpoint } from '../checkpoint/weights.js';
import { PromptEncoder } from './prompt.js';

export interface ModelIdentity {
  /** Of the checkpoint's weights. */
  readonly weights: string;
  /** Of what config.json says about the model. */
  readonly config: string;
  /** Of the tokenizer's files, and of the tokens that the chat template makes of a conversation. */
  readonly tokenizer: string;
  /** Of each adapter, in order: weights and configuration. */
  readonly adapters: readonly string[];
}

export interface IdentityOptions {
  /** Folder of a checkpoint. */
  readonly model: string;
  /** Adapter folders, in the order in which they go on. */
  readonly adapters: readonly string[];
  readonly onProgress?: HashProgress;
}

/** A conversation with everything that a chat template writes. */
const PROBE: readonly ChatMessage[] = [
  { role: 'user', content: 'Question 1?\n  a' },
  { role: 'assistant', content: 'Answer.' },
  { role: 'user', content: '问题 2' },
];

const sha256 = (...contents: (string | Uint8Array)[]): string => {
  const hash = createHash('sha256');
  for (const content of contents) hash.update(`${content.length}\n`).update(content);
  return `sha256:${hash.digest('hex')}`;
};

/**
 * The identity of a model with adapters. All weights are read, unless their hashes are remembered; the adapters, which are small and often
 * named wrongly, first. The event loop runs meanwhile.
 *
 * @throws UserError when a folder is no checkpoint or no adapter
 */
export async function modelIdentity({ model, adapters, onProgress }: IdentityOptions): Promise<ModelIdentity> {
  const encoder = PromptEncoder.open(model);
  const own: string[] = [];
  for (const folder of adapters) own.push(await inTurns(identifying(folder, encoder.config)));
  const { file: _file, text: _text, ...config } = encoder.config;
  const { inputIds } = await encoder.encode(PROBE);
  return {
    adapters: own,
    config: sha256(JSON.stringify(config)),
    tokenizer: sha256(...tokenizerFiles(model), inputIds.join(' ')),
    weights: await inTurns(fingerprinting(openCheckpoint(model), onProgress)),
  };
}

/** The identity of an adapter on a model: its weights and its configuration. Throws UserError when the folder is none of an adapter. */
export const adapterIdentity = (folder: string, config: ModelConfig): string => atOnce(identifying(folder, config));

function* identifying(folder: string, config: ModelConfig): Steps<string> {
  const { lora } = inspectAdapter(folder, modelOrigin(config)).config;
  return sha256(JSON.stringify(lora), yield* fingerprinting(openAdapterWeights(folder)));
}

function tokenizerFiles(folder: string): Buffer[] {
  const paths = TOKENIZER_FILES.map((name) => join(folder, name));
  return paths.map((path) => (existsSync(path) ? readFileSync(path) : Buffer.alloc(0)));
}

/**
 * The state of the files of weights of a model and its adapters: another one later means that they were written meanwhile. Weights are mapped
 * from their files, so that a file that is written over changes a model that is loaded.
 */
export function weightStates({ model, adapters }: Omit<IdentityOptions, 'onProgress'>): ReadonlyMap<string, string> {
  const sources = [openCheckpoint(model), ...adapters.map(openAdapterWeights)];
  const files = new Set(sources.flatMap(({ infos }) => [...infos.values()].map(({ file }) => file)));
  return new Map([...files].map((file) => [file, fileState(file)]));
}

/** The first file whose state is not what it was; undefined: none. */
export function changedFile(states: ReadonlyMap<string, string>): string | undefined {
  for (const [file, state] of states) {
    if (statSync(file, { throwIfNoEntry: false }) === undefined || fileState(file) !== state) return file;
  }
  return undefined;
}
