/**
 * Flags of `minicpm-finetune train` that set others: they are understood on the way to the resolved configuration
 * (`train-config.ts`) and have no place in it.
 */

import type { FlagSpec } from './flags.js';

export const INPUT_FLAGS = {
  recipe: {
    kind: 'string',
    default: null,
    placeholder: 'file',
    help: 'YAML or JSON file with the same keys as the flags; flags win.',
  },
  config: { kind: 'string', default: null, placeholder: 'file', help: 'The same as --recipe.' },
  deepspeed: {
    kind: 'string',
    default: null,
    placeholder: 'file',
    help: 'DeepSpeed JSON file, read for precision, optimizer, scheduler and clipping; flags win.',
  },
  dry_run: {
    kind: 'boolean',
    default: false,
    help: 'Check everything the command line says, print the resolved recipe, and end.',
  },
  bf16: { kind: 'boolean', default: false, help: 'The same as --dtype bfloat16.' },
  fp16: { kind: 'boolean', default: false, help: 'The same as --dtype float16.' },
  use_cpu: { kind: 'boolean', default: false, help: 'The same as --device cpu.' },
  no_cuda: { kind: 'boolean', default: false, help: 'The same as --device cpu.' },
  evaluation_strategy: {
    kind: 'choice',
    choices: ['no', 'steps', 'epoch'],
    default: 'no',
    help: 'The same as --eval_strategy.',
  },
  optim: {
    kind: 'choice',
    choices: ['adamw_torch', 'adamw_torch_fused', 'adamw_hf'],
    default: 'adamw_torch_fused',
    help: 'AdamW; the names differ in speed alone, and here not even in that.',
  },
} as const satisfies Record<string, FlagSpec>;
