/** The commands that run an export in other programs. No messages: they are printed as they are. */
import { basename } from 'node:path';
import type { GgufExport } from '@minicpm-finetune/minicpm-v';

/** `-c`: most positions of a prompt and its answer; 0, the model's own, needs much memory. */
const CONTEXT = 8192;

export function llamaCpp({ model, mmproj }: Pick<GgufExport, 'model' | 'mmproj'>): string[] {
  const words = `-m ${model}${mmproj === null ? '' : ` --mmproj ${mmproj}`} --jinja -c ${CONTEXT}`;
  const question = '-p "What is this?"';
  return [
    mmproj === null ? `  llama-cli ${words} ${question}` : `  llama-mtmd-cli ${words} --image photo.jpg ${question}`,
    `  llama-server ${words}`,
  ];
}

export const llamaCppAdapter = (adapter: string): string[] => [
  `  llama-server -m model.gguf --mmproj mmproj.gguf --lora ${adapter} --jinja -c ${CONTEXT}`,
];

export const ollama = (output: string, modelfile: string): string[] => [
  `  ollama create ${basename(output).toLowerCase()} -f ${modelfile}`,
];

export const servers = (folder: string): string[] => [
  `  vllm serve ${folder} --trust-remote-code`,
  `  python -m sglang.launch_server --model-path ${folder} --trust-remote-code`,
];

export const adapterServer = (model: string, adapter: string): string[] => [
  `  vllm serve ${model} --trust-remote-code --enable-lora --lora-modules ${basename(adapter)}=${adapter}`,
];
