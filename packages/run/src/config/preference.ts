/** Flags of `train`: preference tuning. From pairs of answers, or from answers called good or bad. */
import type { FlagTable, IdleRule } from './spec.js';

/** DPO (Rafailov et al., 2023), IPO (Azar et al., 2023), hinge (Zhao et al., 2023), SimPO (Meng et al., 2024), ORPO (Hong et al., 2024), KTO (Ethayarajh et al., 2024), MPO (Wang et al., 2024). */
const PREFERENCE_LOSSES = ['dpo', 'ipo', 'hinge', 'simpo', 'orpo', 'kto', 'mpo'] as const;

/** What an evaluation of pairs measures, besides the loss. */
export const PREFERENCE_METRICS = [
  'rewards/chosen',
  'rewards/rejected',
  'rewards/margins',
  'rewards/accuracies',
  'logps/chosen',
  'logps/rejected',
] as const;

const onlyFor = (...losses: readonly string[]): readonly IdleRule[] => [
  { when: [{ flag: 'preference', not: losses }] },
];

const WITH_REFERENCE = onlyFor('dpo', 'ipo', 'hinge', 'kto', 'mpo');

export const PREFERENCE = {
  preference: {
    kind: 'choice',
    choices: PREFERENCE_LOSSES,
    default: null,
    help: {
      en: 'Learn from pairs of a chosen and a rejected answer (kto: from answers called good or bad) with this loss.',
      zh: '用该损失从“选中/拒绝”的回答对中学习（kto：从标为好或坏的单个回答中学习）。',
    },
  },
  beta: {
    kind: 'number',
    above: 0,
    default: null,
    idle: onlyFor(...PREFERENCE_LOSSES),
    help: {
      en: 'How strongly the model is held to the reference (orpo: weight of the odds ratio; simpo: scale of the rewards); 0.1, for simpo 2, unless given.',
      zh: '对参考模型的约束强度（orpo：优势比项的权重；simpo：奖励的缩放）；默认 0.1，simpo 为 2。',
    },
  },
  label_smoothing: {
    kind: 'number',
    min: 0,
    max: 0.499999,
    default: 0,
    idle: onlyFor('dpo', 'mpo'),
    help: { en: 'Share of pairs taken to be the wrong way round.', zh: '假定标反的回答对所占比例。' },
  },
  rpo_alpha: {
    kind: 'number',
    min: 0,
    default: null,
    idle: onlyFor('dpo', 'ipo', 'hinge', 'simpo', 'mpo'),
    help: {
      en: 'Weight of the cross entropy of chosen answers beside the loss; 0, for mpo 1, unless given.',
      zh: '在损失之外，选中回答的交叉熵的权重；默认 0，mpo 为 1。',
    },
  },
  simpo_gamma: {
    kind: 'number',
    min: 0,
    default: 1,
    idle: onlyFor('simpo'),
    help: { en: 'Margin by which a chosen answer has to be better.', zh: '选中回答须超出的奖励差。' },
  },
  desirable_weight: {
    kind: 'number',
    above: 0,
    default: 1,
    idle: onlyFor('kto'),
    help: { en: 'Weight of the answers called good.', zh: '标为好的回答的权重。' },
  },
  undesirable_weight: {
    kind: 'number',
    above: 0,
    default: 1,
    idle: onlyFor('kto'),
    help: { en: 'Weight of the answers called bad.', zh: '标为坏的回答的权重。' },
  },
  precompute_ref: {
    kind: 'choice',
    choices: ['auto', 'true', 'false'],
    bare: 'true',
    default: 'auto',
    idle: WITH_REFERENCE,
    help: {
      en: "Compute the reference's log-probabilities once, before the first step. auto: with more than one epoch, and without LoRA.",
      zh: '在第一步之前一次性计算参考模型的对数概率。auto：超过一轮，或不使用 LoRA 时。',
    },
  },
} as const satisfies FlagTable;

export type PreferenceLoss = (typeof PREFERENCE_LOSSES)[number];
