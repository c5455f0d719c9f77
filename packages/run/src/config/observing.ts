/** Flags of a training: what is measured, saved and shown. None of them touches the numbers. */
import type { FlagTable } from './spec.js';

/** Metrics of answers, besides the loss, that `metric_for_best_model` may name. */
export const METRIC_NAMES = ['exact_match', 'anls', 'rouge_l'] as const;

export const INTERVALS = ['no', 'steps', 'epoch'] as const;

export const EVAL = {
  do_eval: {
    kind: 'boolean',
    derived: { en: 'true with --eval_strategy', zh: '有 --eval_strategy 时为 true' },
    freeOnResume: true,
    help: { en: 'Evaluate after the last step.', zh: '最后一步之后进行评估。' },
  },
  eval_strategy: {
    kind: 'choice',
    choices: INTERVALS,
    default: 'no',
    freeOnResume: true,
    help: { en: 'When to evaluate during training.', zh: '训练过程中何时评估。' },
  },
  eval_steps: {
    kind: 'number',
    above: 0,
    derived: { en: 'logging_steps', zh: '与 logging_steps 相同' },
    nullable: true,
    freeOnResume: true,
    idle: [{ when: [{ flag: 'eval_strategy', not: ['steps'] }] }],
    help: {
      en: 'Optimizer steps between evaluations; below 1: share of all steps.',
      zh: '相邻两次评估间隔的步数；小于 1 时表示占总步数的比例。',
    },
  },
  eval_on_start: {
    kind: 'boolean',
    default: false,
    freeOnResume: true,
    help: { en: 'Evaluate before the first step.', zh: '第一步之前先评估一次。' },
  },
  eval_generate: {
    kind: 'integer',
    min: 0,
    default: 0,
    freeOnResume: true,
    help: {
      en: 'Records that are answered at each evaluation. Answers and references are compared without think blocks in front of them.',
      zh: '每次评估时生成回答的记录数。回答与参考答案去掉开头的思考块后再比较。',
    },
  },
  metric_for_best_model: {
    kind: 'string',
    derived: { en: 'loss with --load_best_model_at_end', zh: '有 --load_best_model_at_end 时为 loss' },
    nullable: true,
    freeOnResume: true,
    help: {
      en: `Metric that decides which checkpoint is best: loss, ${METRIC_NAMES.join(', ')}; with --preference also rewards/accuracies and the like.`,
      zh: `判定最佳检查点的指标：loss、${METRIC_NAMES.join('、')}；使用 --preference 时还有 rewards/accuracies 等。`,
    },
  },
  greater_is_better: {
    kind: 'boolean',
    derived: { en: 'unless the metric ends in "loss"', zh: '除非指标名以 “loss” 结尾' },
    freeOnResume: true,
    help: { en: 'Whether more of it is better.', zh: '该指标是否越大越好。' },
  },
  load_best_model_at_end: {
    kind: 'boolean',
    default: false,
    freeOnResume: true,
    help: {
      en: 'End with the best checkpoint instead of the last.',
      zh: '训练结束时采用最佳检查点，而不是最后一个。',
    },
  },
} as const satisfies FlagTable;

export const SAVE = {
  save_strategy: {
    kind: 'choice',
    choices: INTERVALS,
    default: 'steps',
    freeOnResume: true,
    help: { en: 'When to write checkpoints.', zh: '何时保存检查点。' },
  },
  save_steps: {
    kind: 'number',
    above: 0,
    default: 500,
    freeOnResume: true,
    idle: [{ when: [{ flag: 'save_strategy', not: ['steps'] }] }],
    help: {
      en: 'Optimizer steps between checkpoints; below 1: share of all steps.',
      zh: '相邻两个检查点间隔的步数；小于 1 时表示占总步数的比例。',
    },
  },
  save_total_limit: {
    kind: 'integer',
    min: 1,
    default: null,
    freeOnResume: true,
    help: {
      en: 'Checkpoints kept, always including the best and the newest; older ones are removed after a new one is complete.',
      zh: '保留的检查点个数（最佳和最新的始终保留）；新检查点写完后才删除旧的。',
    },
  },
  save_only_model: {
    kind: 'boolean',
    default: false,
    freeOnResume: true,
    help: {
      en: 'Checkpoints without optimizer and random states: smaller, not resumable.',
      zh: '检查点不含优化器和随机状态：更小，但不能用来恢复训练。',
    },
  },
  save_on_stop: {
    kind: 'boolean',
    default: true,
    freeOnResume: true,
    help: {
      en: 'Save when stopped by Ctrl-C, a signal or a STOP file.',
      zh: '被 Ctrl-C、信号或 STOP 文件停止时保存检查点。',
    },
  },
  resume_from_checkpoint: {
    kind: 'string',
    default: null,
    bare: 'latest',
    placeholder: 'dir|latest',
    freeOnResume: true,
    help: {
      en: 'Resume a run: a checkpoint folder, or latest for the newest complete one of output_dir.',
      zh: '恢复训练：检查点目录，或用 latest 表示 output_dir 中最新的完整检查点。',
    },
  },
  resume_anyway: {
    kind: 'boolean',
    default: false,
    freeOnResume: true,
    idle: [
      {
        when: [{ flag: 'resume_from_checkpoint', is: [null] }],
        why: { en: 'nothing is resumed', zh: '没有恢复任何训练' },
      },
    ],
    help: {
      en: "Resume although data or configuration differ from the checkpoint's.",
      zh: '即使数据或配置与检查点不同也恢复训练。',
    },
  },
} as const satisfies FlagTable;

export const LOGGING = {
  logging_dir: {
    kind: 'string',
    default: null,
    placeholder: 'dir',
    freeOnResume: true,
    idle: [
      {
        when: [{ flag: 'report_to', is: [[]] }],
        why: { en: 'report_to does not name tensorboard', zh: 'report_to 未包含 tensorboard' },
      },
    ],
    help: {
      en: 'Folder of TensorBoard files; logs in the run folder unless given.',
      zh: 'TensorBoard 文件的目录；默认为运行目录下的 logs。',
    },
  },
  logging_strategy: {
    kind: 'choice',
    choices: INTERVALS,
    default: 'steps',
    freeOnResume: true,
    help: { en: 'When to log.', zh: '何时记录日志。' },
  },
  logging_steps: {
    kind: 'number',
    above: 0,
    default: 10,
    freeOnResume: true,
    idle: [{ when: [{ flag: 'logging_strategy', not: ['steps'] }] }],
    help: {
      en: 'Optimizer steps between log lines (transformers: 500); below 1: share of all steps.',
      zh: '相邻两行日志间隔的步数（transformers 为 500）；小于 1 时表示占总步数的比例。',
    },
  },
  logging_first_step: {
    kind: 'boolean',
    default: false,
    freeOnResume: true,
    help: { en: 'Log the first step, too.', zh: '第一步也记录日志。' },
  },
  report_to: {
    kind: 'strings',
    default: [],
    placeholder: 'tensorboard|none',
    freeOnResume: true,
    help: { en: 'Where to log beside events.jsonl.', zh: '除 events.jsonl 外，日志还写到哪里。' },
  },
  profile: {
    kind: 'integer',
    min: 0,
    default: 0,
    freeOnResume: true,
    help: {
      en: 'Write a trace of this many first steps to profile.json in the run folder, for ui.perfetto.dev.',
      zh: '把最初若干步的性能轨迹写入运行目录的 profile.json，可用 ui.perfetto.dev 查看。',
    },
  },
  progress: {
    kind: 'choice',
    choices: ['auto', 'plain', 'quiet', 'json'],
    default: 'auto',
    freeOnResume: true,
    help: {
      en: 'Live line on a terminal and plain lines elsewhere, always plain lines, nothing, or JSON lines.',
      zh: '依次为：终端上实时刷新、其他情况逐行输出；总是逐行输出；不输出；逐行输出 JSON。',
    },
  },
} as const satisfies FlagTable;
