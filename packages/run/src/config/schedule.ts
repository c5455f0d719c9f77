/** Flags of `train`: length and learning-rate schedule. */
import type { FlagTable } from './spec.js';

export const SCHEDULE = {
  num_train_epochs: {
    kind: 'number',
    above: 0,
    default: 3,
    idle: [
      {
        when: [{ flag: 'max_steps', not: [-1] }],
        why: { en: 'max_steps is {max_steps} and comes first', zh: 'max_steps 为 {max_steps}，优先生效' },
      },
    ],
    help: { en: 'Passes over the data; may be a fraction.', zh: '训练轮数；可以是小数。' },
  },
  max_steps: {
    kind: 'integer',
    min: -1,
    default: -1,
    help: {
      en: 'Optimizer steps in all, instead of epochs; -1: num_train_epochs decides.',
      zh: '优化器总步数，代替轮数；-1 表示由 num_train_epochs 决定。',
    },
  },
  lr_scheduler_type: {
    kind: 'choice',
    choices: [
      'linear',
      'cosine',
      'cosine_with_restarts',
      'polynomial',
      'constant',
      'constant_with_warmup',
      'inverse_sqrt',
      'warmup_stable_decay',
      'WarmupLR',
    ],
    default: 'linear',
    help: { en: 'Learning-rate schedule.', zh: '学习率调度方式。' },
  },
  lr_scheduler_kwargs: {
    kind: 'options',
    default: null,
    placeholder: 'json',
    help: {
      en: `Options of the schedule, such as '{"num_cycles": 2}'.`,
      zh: `调度方式的选项，例如 '{"num_cycles": 2}'。`,
    },
  },
  warmup_steps: {
    kind: 'number',
    min: 0,
    default: 0,
    idle: [
      {
        when: [
          { flag: 'lr_scheduler_type', is: ['constant'] },
          { flag: 'warmup_steps', not: [0] },
        ],
        why: {
          en: 'constant has no warmup; use constant_with_warmup',
          zh: 'constant 没有预热；请改用 constant_with_warmup',
        },
      },
    ],
    help: {
      en: 'Optimizer steps of warmup; below 1: share of all steps; 0: warmup_ratio decides.',
      zh: '预热步数；小于 1 时表示占总步数的比例；0 表示由 warmup_ratio 决定。',
    },
  },
  warmup_ratio: {
    kind: 'number',
    min: 0,
    max: 1,
    default: 0,
    idle: [
      {
        when: [{ flag: 'warmup_steps', not: [0] }],
        why: {
          en: 'warmup_steps is given, too, and comes first',
          zh: '同时给出了 warmup_steps，它优先生效',
        },
      },
      {
        when: [
          { flag: 'lr_scheduler_type', is: ['constant'] },
          { flag: 'warmup_ratio', not: [0] },
        ],
        why: {
          en: 'constant has no warmup; use constant_with_warmup',
          zh: 'constant 没有预热；请改用 constant_with_warmup',
        },
      },
    ],
    help: {
      en: 'Warmup as a share of all steps, rounded up, if warmup_steps is 0.',
      zh: 'warmup_steps 为 0 时，预热占总步数的比例（向上取整）。',
    },
  },
} as const satisfies FlagTable;
