/** The commands that run an export in other programs. No messages: they are printed as they are. */
import { basename } from 'node:path';
import type { GgufExport } from '@minicpm-finetune/minicpm-v';
import { shellWord } from '../shared/shell-word.js';

/** `-c`: most positions of a prompt and its answer; 0, the model's own, needs much memory. */
const CONTEXT = 8192;

export function llamaCpp({ model, mmproj }: Pick<GgufExport, 'model' | 'mmproj'>): string[] {
  const words = `-m ${shellWord(model)}${mmproj === null ? '' : ` --mmproj ${shellWord(mmproj)}`} --jinja -c ${CONTEXT}`;
  const question = '-p "What is this?"';
  return [
    mmproj === null ? `  llama-cli ${words} ${question}` : `  llama-mtmd-cli ${words} --image photo.jpg ${question}`,
    `  llama-server ${words}`,
  ];
}

export const llamaCppAdapter = (adapter: string): string[] => [
  `  llama-server -m model.gguf --mmproj mmproj.gguf --lora ${shellWord(adapter)} --jinja -c ${CONTEXT}`,
];

export const ollama = (output: string, modelfile: string): string[] => [
  `  ollama create ${modelName(output)} -f ${shellWord(modelfile)}`,
];

/** The folder's name with what Ollama allows in names: small letters, digits, `.`, `_` and `-`, a letter or digit first. */
function modelName(output: string): string {
  const name = basename(output)
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]+/g, '-')
    .replace(/^[^a-z0-9]+/, '');
  return name === '' ? 'minicpm' : name;
}

export const servers = (folder: string): string[] => [
  `  vllm serve ${shellWord(folder)} --trust-remote-code`,
  `  python -m sglang.launch_server --model-path ${shellWord(folder)} --trust-remote-code`,
];

export const adapterServer = (model: string, adapter: string): string[] => [
  `  vllm serve ${shellWord(model)} --trust-remote-code --enable-lora --lora-modules ${shellWord(`${basename(adapter)}=${adapter}`)}`,
];
