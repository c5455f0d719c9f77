/** Flags of a training: what trains, and how the weights change. */
import type { FlagTable, IdleRule } from './spec.js';

/** The regular expression of the official `finetune.py`. */
export const OFFICIAL_LORA_TARGETS = 'llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|k_proj|v_proj|o_proj)';

const WITHOUT_LORA: readonly IdleRule[] = [{ when: [{ flag: 'use_lora', is: [false] }] }];

export const TRAINABLES = {
  tune_vision: {
    kind: 'boolean',
    default: true,
    help: {
      en: 'Train the vision tower (with LoRA: in full, saved beside the adapters). The resampler always trains.',
      zh: '训练视觉编码器（使用 LoRA 时为全参数训练，与适配器一起保存）。重采样器（resampler）始终参与训练。',
    },
  },
  tune_llm: {
    kind: 'boolean',
    derived: { en: 'true without --use_lora', zh: '没有 --use_lora 时为 true' },
    help: {
      en: "Train the language model's own weights; never together with LoRA.",
      zh: '训练语言模型本身的权重；不能与 LoRA 同时使用。',
    },
  },
} as const satisfies FlagTable;

export const LORA = {
  use_lora: {
    kind: 'boolean',
    default: false,
    help: {
      en: 'Train low-rank adapters instead of the language model.',
      zh: '训练低秩适配器（LoRA），而不是语言模型本身。',
    },
  },
  lora_r: {
    kind: 'integer',
    min: 1,
    default: 64,
    idle: WITHOUT_LORA,
    help: { en: 'Rank of the adapters.', zh: '适配器的秩。' },
  },
  lora_alpha: {
    kind: 'number',
    above: 0,
    default: 64,
    idle: WITHOUT_LORA,
    help: { en: 'Adapters are scaled by alpha / r.', zh: '适配器的输出按 alpha / r 缩放。' },
  },
  lora_dropout: {
    kind: 'number',
    min: 0,
    max: 0.999,
    default: 0.05,
    idle: WITHOUT_LORA,
    help: { en: 'Dropout before the adapter.', zh: '适配器输入的 dropout 概率。' },
  },
  lora_target_modules: {
    kind: 'modules',
    default: OFFICIAL_LORA_TARGETS,
    placeholder: 'regex|name...',
    idle: WITHOUT_LORA,
    help: {
      en:
        'Linear layers that get adapters: one regular expression over full names, or name endings. Endings and all-linear mean the ' +
        "language model; for the vision tower give an expression such as 'vpm\\..*\\.fc1', or full names. The default means every linear layer " +
        'of the language model for 4.6 and 4.7.',
      zh:
        '加适配器的线性层：一个匹配完整名称的正则表达式，或若干名称结尾。名称结尾和 all-linear 指语言模型；' +
        "要用于视觉编码器，请给出 'vpm\\..*\\.fc1' 这样的表达式或完整名称。对 4.6 和 4.7，默认值指语言模型的所有线性层。",
    },
  },
  lora_bias: {
    kind: 'choice',
    choices: ['none', 'all', 'lora_only'],
    default: 'none',
    idle: WITHOUT_LORA,
    help: { en: 'Which biases train.', zh: '训练哪些偏置。' },
  },
  lora_modules_to_save: {
    kind: 'strings',
    derived: {
      en: 'resampler, vpm with --tune_vision, embed_tokens with --compat official',
      zh: 'resampler；有 --tune_vision 时加 vpm；有 --compat official 时加 embed_tokens',
    },
    placeholder: 'name...',
    idle: WITHOUT_LORA,
    help: {
      en: 'Modules trained in full and saved beside the adapters, by name ending; resampler and vpm mean what every model has in their place.',
      zh: '全参数训练并与适配器一起保存的模块，以名称结尾指定；resampler 和 vpm 指各模型中相应的部分。',
    },
  },
  lora_weight_path: {
    kind: 'string',
    default: null,
    placeholder: 'dir',
    freeOnResume: true,
    idle: WITHOUT_LORA,
    help: {
      en: 'Adapter to continue training; it keeps its rank, alpha, targets and saved modules. New adapters unless given.',
      zh: '继续训练的适配器；它保留自己的秩、alpha、目标层和整体保存的模块。默认新建适配器。',
    },
  },
  lora_layers_to_transform: {
    kind: 'integers',
    min: 0,
    default: null,
    idle: WITHOUT_LORA,
    help: { en: 'Only these layers get adapters; all unless given.', zh: '只给这些层加适配器；默认为全部层。' },
  },
  use_dora: {
    kind: 'boolean',
    default: false,
    idle: WITHOUT_LORA,
    help: { en: 'Weight-decomposed adapters (DoRA).', zh: '权重分解的适配器（DoRA）。' },
  },
  use_rslora: {
    kind: 'boolean',
    default: false,
    idle: WITHOUT_LORA,
    help: { en: 'Scale by alpha / sqrt(r) (rsLoRA).', zh: '按 alpha / sqrt(r) 缩放（rsLoRA）。' },
  },
  loraplus_lr_ratio: {
    kind: 'number',
    above: 0,
    default: null,
    idle: WITHOUT_LORA,
    help: {
      en: "Learning rate of lora_B as a multiple of lora_A's (LoRA+); the same unless given.",
      zh: 'lora_B 的学习率相对 lora_A 的倍数（LoRA+）；默认两者相同。',
    },
  },
  q_lora: {
    kind: 'boolean',
    default: false,
    help: {
      en: 'Keep the frozen linear weights of the language model quantized.',
      zh: '量化语言模型中冻结的线性层权重（QLoRA）。',
    },
  },
  q_lora_type: {
    kind: 'choice',
    choices: ['nf4', 'int8'],
    default: 'nf4',
    idle: [{ when: [{ flag: 'q_lora', is: [false] }] }],
    help: { en: 'How they are quantized.', zh: '量化类型。' },
  },
} as const satisfies FlagTable;

export const OPTIMIZER = {
  learning_rate: {
    kind: 'number',
    min: 0,
    default: 5e-5,
    help: { en: 'Peak learning rate.', zh: '学习率峰值。' },
  },
  vision_learning_rate: {
    kind: 'number',
    min: 0,
    default: null,
    idle: [{ when: [{ flag: 'tune_vision', is: [false] }] }],
    help: {
      en: 'Peak learning rate of the vision tower; learning_rate unless given.',
      zh: '视觉编码器的学习率峰值；默认与 learning_rate 相同。',
    },
  },
  resampler_learning_rate: {
    kind: 'number',
    min: 0,
    default: null,
    help: {
      en: 'Peak learning rate of the resampler; learning_rate unless given.',
      zh: '重采样器的学习率峰值；默认与 learning_rate 相同。',
    },
  },
  embedding_learning_rate: {
    kind: 'number',
    min: 0,
    default: null,
    help: {
      en: 'Peak learning rate of the token embeddings; learning_rate unless given.',
      zh: '词元嵌入的学习率峰值；默认与 learning_rate 相同。',
    },
  },
  weight_decay: {
    kind: 'number',
    min: 0,
    default: 0,
    help: {
      en: 'Decoupled weight decay; norms and biases have none.',
      zh: '解耦的权重衰减；归一化层和偏置不衰减。',
    },
  },
  adam_beta1: {
    kind: 'number',
    min: 0,
    max: 0.999999,
    default: 0.9,
    help: { en: 'Decay of the first moment.', zh: '一阶矩的衰减系数。' },
  },
  adam_beta2: {
    kind: 'number',
    min: 0,
    max: 0.999999,
    default: 0.999,
    help: { en: 'Decay of the second moment.', zh: '二阶矩的衰减系数。' },
  },
  adam_epsilon: {
    kind: 'number',
    above: 0,
    default: 1e-8,
    help: { en: 'Added to the root of the second moment.', zh: '加在二阶矩平方根上的小量。' },
  },
  max_grad_norm: {
    kind: 'number',
    min: 0,
    default: 1,
    help: {
      en: 'The global gradient norm is clipped to this; 0: no clipping.',
      zh: '全局梯度范数裁剪到此值；0 表示不裁剪。',
    },
  },
  neftune_noise_alpha: {
    kind: 'number',
    above: 0,
    default: null,
    help: { en: 'NEFTune noise on the token embeddings.', zh: '词元嵌入上的 NEFTune 噪声。' },
  },
} as const satisfies FlagTable;
