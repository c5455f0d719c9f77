/** What `minicpm-finetune train --help` says around its flags. */

import type { CommandText } from '../command.js';

export const TRAIN_TEXT: CommandText = {
  name: 'train',
  summary: 'Fine-tune a model: all of it, or LoRA adapters.',
  description: [
    'Fine-tunes a MiniCPM-V or MiniCPM-o checkpoint on your pictures and conversations.',
    '',
    'Three flags are needed: the checkpoint, the data and the run folder. The others have the names, meanings and ' +
      'defaults of transformers, PEFT and the official finetune.py, whose command lines work as they are. A flag ' +
      'without value means true; of a flag given twice the last counts; paths are relative to the current folder.',
  ].join('\n'),
  headings: {
    input: 'Where settings come from:',
    model: 'Model:',
    data: 'Data:',
    output: 'Run folder:',
    trainables: 'What trains:',
    lora: 'LoRA:',
    optimizer: 'Optimizer:',
    schedule: 'Length and learning-rate schedule:',
    precision: 'Precision:',
    batch: 'Batches:',
    engine: 'Device, speed and memory:',
    eval: 'Evaluation:',
    save: 'Checkpoints:',
    logging: 'Logging:',
    loader: 'Data loading:',
    seeds: 'Seeds:',
  },
  examples: [
    'Examples:',
    '',
    '  Adapters on the language model, the usual way to teach a model your documents. The result is an adapter',
    '  folder, to be tried with `minicpm-finetune chat --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices`:',
    '',
    '    minicpm-finetune train --model_name_or_path openbmb/MiniCPM-V-2_6 \\',
    '      --data_path invoices.json --output_dir runs/invoices \\',
    '      --use_lora --lora_r 16 --lora_alpha 32 --bf16 --learning_rate 1e-4 \\',
    '      --per_device_train_batch_size 1 --gradient_accumulation_steps 8 --gradient_checkpointing',
    '',
    '  The whole model, evaluated every 100 steps, the best checkpoint kept, from a recipe whose values the',
    '  flags override; later continued where it stopped:',
    '',
    '    minicpm-finetune train --recipe invoices.yaml --learning_rate 1e-6 \\',
    '      --eval_data_path held-out.json --eval_strategy steps --eval_steps 100 --save_steps 100 \\',
    '      --load_best_model_at_end --save_total_limit 2',
    '    minicpm-finetune train --recipe invoices.yaml --learning_rate 1e-6 --resume_from_checkpoint',
    '',
    'Flags of the official scripts that have nothing to set here are accepted, and the run says so.',
  ].join('\n'),
};
