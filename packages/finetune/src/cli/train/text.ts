/** The text of `train --help` around the flags. */
import { CONFIG_HEADINGS } from '@minicpm-finetune/run';
import type { CommandText } from '../command.js';

const LORA_EXAMPLE = [
  '    minicpm-finetune train --model_name_or_path openbmb/MiniCPM-V-2_6 \\',
  '      --data_path invoices.json --output_dir runs/invoices \\',
  '      --use_lora --lora_r 16 --lora_alpha 32 --bf16 --learning_rate 1e-4 \\',
  '      --per_device_train_batch_size 1 --gradient_accumulation_steps 8 --gradient_checkpointing',
];
const RECIPE_EXAMPLE = [
  '    minicpm-finetune train --recipe invoices.yaml --learning_rate 1e-6 \\',
  '      --eval_data_path held-out.json --eval_strategy steps --eval_steps 100 --save_steps 100 \\',
  '      --load_best_model_at_end --save_total_limit 2',
  '    minicpm-finetune train --recipe invoices.yaml --learning_rate 1e-6 --resume_from_checkpoint',
];

export const TRAIN_TEXT: CommandText = {
  name: 'train',
  summary: { en: 'Fine-tune a model: all of it, or LoRA adapters.', zh: '微调模型：全参数，或 LoRA 适配器。' },
  description: {
    en: [
      'Fine-tunes a MiniCPM-V or MiniCPM-o checkpoint on your pictures and conversations.',
      '',
      'Three flags are needed: the checkpoint, the data and the run folder. The others have the names, meanings and ' +
        'defaults of transformers, PEFT and the official finetune.py, whose command lines work as they are. A flag ' +
        'without value means true; of a flag given twice the last counts; paths are relative to the current folder.',
    ].join('\n'),
    zh: [
      '用你的图片和对话微调 MiniCPM-V 或 MiniCPM-o 检查点。',
      '',
      '必填的参数有三个：检查点、数据和运行目录。其余参数的名称、含义和默认值与 transformers、PEFT 及官方 finetune.py ' +
        '相同，官方的命令行可以直接使用。参数不带值表示 true；同一参数给出多次时以最后一次为准；路径相对于当前目录。',
    ].join('\n'),
  },
  headings: {
    input: { en: 'Where settings come from', zh: '设置的来源' },
    ...CONFIG_HEADINGS,
    launch: { en: 'Several devices and machines', zh: '多设备与多机' },
  },
  examples: {
    en: [
      'Examples:',
      '',
      '  Adapters on the language model, the usual way to teach a model your documents. The result is an adapter',
      '  folder, to be tried with `minicpm-finetune chat --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices`:',
      '',
      ...LORA_EXAMPLE,
      '',
      '  The whole model, evaluated every 100 steps, the best checkpoint kept, from a recipe whose values the',
      '  flags override; later resumed where it stopped:',
      '',
      ...RECIPE_EXAMPLE,
      '',
      'Flags of the official scripts that have nothing to set here are accepted, and the run says so.',
    ].join('\n'),
    zh: [
      '示例：',
      '',
      '  在语言模型上训练适配器，这是让模型学会你的文档的常用方式。适配器目录可以用',
      '  `minicpm-finetune chat --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices` 试用：',
      '',
      ...LORA_EXAMPLE,
      '',
      '  全参数微调：每 100 步评估一次，保留最佳检查点；设置来自配置文件，',
      '  命令行参数优先；之后从中断处恢复：',
      '',
      ...RECIPE_EXAMPLE,
      '',
      '官方脚本中在这里没有作用的参数也会被接受，运行时会说明。',
    ].join('\n'),
  },
};
