/**
 * The fully resolved configuration of a training run. The trainer obeys it and `run.json` in the run folder holds it.
 *
 * `CONFIG_FLAGS` is the only list of its keys. They are the names of the command-line flags (those of transformers, PEFT and the official
 * MiniCPM-V scripts where they have one), so `run.json` is also a valid recipe: `minicpm-finetune train --recipe run.json` repeats the run.
 * Nothing in here depends on the machine, the rank or the data: such numbers are derived at start and recorded in the `run_start` event.
 * Defaults are those of transformers, PEFT and the official `finetune.py`; where a default is ours, the help says so or there is no official one.
 */
import type { Text } from '../language.js';
import { BATCH, ENGINE, LOADER, PRECISION, SEEDS } from './computing.js';
import { LORA, OPTIMIZER, TRAINABLES } from './learning.js';
import { DATA, MODEL, OUTPUT } from './model-data.js';
import { EVAL, LOGGING, SAVE } from './observing.js';
import { PREFERENCE } from './preference.js';
import { SCHEDULE } from './schedule.js';
import type { FlagTable, ValuesOf } from './spec.js';

/** The groups of a `RunConfig` and their flags, in the order in which they are written and printed. */
export const CONFIG_FLAGS = {
  model: MODEL,
  data: DATA,
  output: OUTPUT,
  trainables: TRAINABLES,
  lora: LORA,
  preference: PREFERENCE,
  optimizer: OPTIMIZER,
  schedule: SCHEDULE,
  precision: PRECISION,
  batch: BATCH,
  engine: ENGINE,
  eval: EVAL,
  save: SAVE,
  logging: LOGGING,
  loader: LOADER,
  seeds: SEEDS,
} as const satisfies Readonly<Record<string, FlagTable>>;

export type ConfigGroup = keyof typeof CONFIG_FLAGS;

export const CONFIG_GROUPS = Object.keys(CONFIG_FLAGS) as readonly ConfigGroup[];

/** The headings of the groups. */
export const CONFIG_HEADINGS: Readonly<Record<ConfigGroup, Text>> = {
  model: { en: 'Model', zh: '模型' },
  data: { en: 'Data', zh: '数据' },
  output: { en: 'Run folder', zh: '运行目录' },
  trainables: { en: 'What trains', zh: '训练哪些部分' },
  lora: { en: 'LoRA', zh: 'LoRA' },
  preference: { en: 'Preference tuning', zh: '偏好调优' },
  optimizer: { en: 'Optimizer', zh: '优化器' },
  schedule: { en: 'Length and learning-rate schedule', zh: '训练长度与学习率调度' },
  precision: { en: 'Precision', zh: '精度' },
  batch: { en: 'Batches', zh: '批次' },
  engine: { en: 'Device, speed and memory', zh: '设备、速度与内存' },
  eval: { en: 'Evaluation', zh: '评估' },
  save: { en: 'Checkpoints', zh: '检查点' },
  logging: { en: 'Logging', zh: '日志' },
  loader: { en: 'Data loading', zh: '数据加载' },
  seeds: { en: 'Seeds', zh: '随机种子' },
};

/** Every value of a run, by group. `resolveConfig` makes it, deeply frozen. */
export type RunConfig = { readonly [G in ConfigGroup]: ValuesOf<(typeof CONFIG_FLAGS)[G]> };

/** The language model's chat format. */
export type LlmType = NonNullable<RunConfig['model']['llm_type']>;

/**
 * What the training data look like to the model. `inference`: exactly what inference does with the same conversation.
 * `official`: what the official dataset code makes of it (its doubled end tokens and stray newlines included).
 */
export type Compat = RunConfig['data']['compat'];
/** Think blocks in training. */
export type ThinkingMode = RunConfig['data']['thinking'];

/** The type in which the forward and backward pass compute. */
export type FloatDType = RunConfig['precision']['dtype'];

export type SchedulerType = RunConfig['schedule']['lr_scheduler_type'];

export type ScheduleConfig = RunConfig['schedule'];
