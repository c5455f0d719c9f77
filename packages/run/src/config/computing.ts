/** Flags of a training: how it is computed. */
import { SHARING } from './sharing.js';
import type { FlagTable, IdleRule } from './spec.js';

const WITHOUT_FLOAT16: IdleRule = { when: [{ flag: 'dtype', not: ['float16'] }] };
const DYNAMIC_LOSS_SCALE: readonly IdleRule[] = [
  WITHOUT_FLOAT16,
  {
    when: [{ flag: 'fp16_loss_scale', not: [0] }],
    why: { en: 'fp16_loss_scale is fixed at {fp16_loss_scale}', zh: 'fp16_loss_scale 固定为 {fp16_loss_scale}' },
  },
];
const UNDER_PACKING: readonly IdleRule[] = [{ when: [{ flag: 'packing', is: [true] }] }];

export const PRECISION = {
  dtype: {
    kind: 'choice',
    choices: ['float32', 'bfloat16', 'float16'],
    default: 'float32',
    help: {
      en: 'Type to compute in; --bf16 and --fp16 are short for two of them.',
      zh: '计算所用的数据类型；--bf16 和 --fp16 是其中两种的简写。',
    },
  },
  bf16_master_weights: {
    kind: 'boolean',
    default: true,
    idle: [{ when: [{ flag: 'dtype', not: ['bfloat16'] }] }],
    help: {
      en: 'With bfloat16: float32 weights and moments, as in DeepSpeed; false: pure bfloat16, stochastically rounded.',
      zh: '使用 bfloat16 时：保留 float32 主权重和优化器状态（与 DeepSpeed 相同）；false 表示纯 bfloat16，随机舍入。',
    },
  },
  fp16_loss_scale: {
    kind: 'number',
    min: 0,
    default: 0,
    idle: [WITHOUT_FLOAT16],
    help: {
      en: 'With float16: fixed loss scale; 0: dynamic.',
      zh: '使用 float16 时：固定的损失缩放；0 表示动态缩放。',
    },
  },
  fp16_initial_scale_power: {
    kind: 'integer',
    min: 0,
    max: 32,
    default: 16,
    idle: DYNAMIC_LOSS_SCALE,
    help: { en: 'First dynamic loss scale, as a power of 2.', zh: '动态损失缩放的初始值，以 2 的幂次表示。' },
  },
  fp16_loss_scale_window: {
    kind: 'integer',
    min: 1,
    default: 1000,
    idle: DYNAMIC_LOSS_SCALE,
    help: {
      en: 'Steps without overflow after which the dynamic loss scale doubles.',
      zh: '连续多少步没有溢出后，动态损失缩放加倍。',
    },
  },
  fp16_hysteresis: {
    kind: 'integer',
    min: 1,
    default: 2,
    idle: DYNAMIC_LOSS_SCALE,
    help: {
      en: 'Overflows after which the dynamic loss scale is halved.',
      zh: '溢出多少次后，动态损失缩放减半。',
    },
  },
  fp16_min_loss_scale: {
    kind: 'number',
    above: 0,
    default: 1,
    idle: DYNAMIC_LOSS_SCALE,
    help: { en: 'Smallest dynamic loss scale.', zh: '动态损失缩放的最小值。' },
  },
  on_nonfinite: {
    kind: 'choice',
    choices: ['stop', 'skip'],
    default: 'stop',
    help: {
      en: 'If a loss or gradient is not finite: stop the run, or skip and count the step.',
      zh: '损失或梯度不是有限数时：停止训练，或跳过这一步并计数。',
    },
  },
} as const satisfies FlagTable;

export const BATCH = {
  per_device_train_batch_size: {
    kind: 'integer',
    min: 1,
    default: 8,
    help: {
      en: 'Records (with --packing: packed sequences) per device and micro-batch.',
      zh: '每个设备每个微批的记录数（使用 --packing 时为打包后的序列数）。',
    },
  },
  per_device_eval_batch_size: {
    kind: 'integer',
    min: 1,
    default: 8,
    freeOnResume: true,
    help: { en: 'Records per device and batch in evaluation.', zh: '评估时每个设备每批的记录数。' },
  },
  gradient_accumulation_steps: {
    kind: 'integer',
    min: 1,
    default: 1,
    help: { en: 'Micro-batches per optimizer step.', zh: '梯度累积：每个优化步的微批数。' },
  },
  group_by_length: {
    kind: 'boolean',
    default: false,
    idle: UNDER_PACKING,
    help: {
      en: 'Batch records of similar length, in random order still: less padding.',
      zh: '把长度相近的记录放在同一批（仍然随机打乱），减少填充。',
    },
  },
  packing: {
    kind: 'boolean',
    default: false,
    help: {
      en: 'Pack records, as they come, into sequences of about model_max_length tokens; no record attends to another.',
      zh: '把记录依次打包成约 model_max_length 个词元的序列；各记录之间互不可见。',
    },
  },
  dataloader_drop_last: {
    kind: 'boolean',
    default: false,
    idle: UNDER_PACKING,
    help: { en: 'Leave out the last, smaller batch of an epoch.', zh: '丢弃每轮最后不足一批的数据。' },
  },
} as const satisfies FlagTable;

/** Flags with the same meaning for every command that computes. */
export const DEVICE = {
  device: {
    kind: 'choice',
    choices: ['auto', 'cpu', 'cuda', 'mps'],
    default: 'auto',
    help: {
      en: 'Where to compute; auto: the best device there is (cuda, else mps, else cpu).',
      zh: '计算设备；auto 表示可用的最佳设备（依次为 cuda、mps、cpu）。',
    },
  },
  threads: {
    kind: 'integer',
    min: 1,
    default: null,
    help: {
      en: 'Threads of libtorch; one per physical core unless given.',
      zh: 'libtorch 的线程数；默认每个物理核一个。',
    },
  },
} as const satisfies FlagTable;

export const ENGINE = {
  ...DEVICE,
  ...SHARING,
  tf32: {
    kind: 'boolean',
    default: false,
    idle: [{ when: [{ flag: 'device', is: ['cpu', 'mps'] }] }],
    help: {
      en: 'On NVIDIA GPUs, round the operands of float32 products to TF32 (10 bits of mantissa): faster.',
      zh: '在 NVIDIA GPU 上，把 float32 乘法的操作数舍入为 TF32（10 位尾数）：更快。',
    },
  },
  gradient_checkpointing: {
    kind: 'boolean',
    choices: ['auto'],
    placeholder: 'true|false|auto',
    derived: { en: 'false, true with --fused_backward', zh: 'false；有 --fused_backward 时为 true' },
    help: {
      en:
        'Recompute in the backward pass: slower, far less memory. auto: only what does not fit in memory_budget, as ' +
        'measured in the first steps.',
      zh: '反向传播时重新计算激活：较慢，但大幅节省内存。auto 表示只重算 memory_budget 放不下的部分（由最初几步测得）。',
    },
  },
  fused_backward: {
    kind: 'boolean',
    default: false,
    help: {
      en:
        'Update each block in the backward pass: the gradients of the whole model never exist. max_grad_norm is ' +
        'then applied to each block by itself, and there is no accumulation.',
      zh: '在反向传播中逐块更新参数：整个模型的梯度从不同时存在。此时 max_grad_norm 分别作用于每一块，且不能累积梯度。',
    },
  },
  memory_budget: {
    kind: 'bytes',
    default: null,
    placeholder: 'bytes',
    freeOnResume: true,
    help: {
      en: 'End the run if its first steps take more memory, such as 12GB; for auto without it: the memory that is free.',
      zh: '最初几步占用的内存超过此值（例如 12GB）则结束；auto 未给此值时使用空闲内存。',
    },
  },
  memory_check: {
    kind: 'choice',
    choices: ['error', 'warn', 'off'],
    default: 'error',
    freeOnResume: true,
    help: {
      en: 'Before weights are loaded, estimate the memory: refuse what exceeds all that the device has, only warn, or neither.',
      zh: '加载权重之前估算内存：超出设备全部内存时拒绝（error），只警告（warn），或不检查（off）。',
    },
  },
  cache_vision: {
    kind: 'string',
    default: 'auto',
    placeholder: 'auto|off|dir',
    freeOnResume: true,
    help: {
      en:
        'Store the features of each picture from a frozen vision tower and reuse them in later epochs and runs; ' +
        'auto: with more than one epoch, in the cache folder of the user.',
      zh: '保存冻结的视觉编码器对每张图片的特征，供以后各轮和各次运行复用；auto 表示超过一轮时启用，存放在用户缓存目录。',
    },
  },
  cache_vision_limit: {
    kind: 'bytes',
    default: 20e9,
    placeholder: 'bytes',
    freeOnResume: true,
    idle: [{ when: [{ flag: 'cache_vision', is: ['off'] }] }],
    help: {
      en: 'Most bytes stored; features of other models are removed first.',
      zh: '最多保存的字节数；优先清除其他模型的特征。',
    },
  },
} as const satisfies FlagTable;

export const LOADER = {
  dataloader_num_workers: {
    kind: 'integer',
    min: 0,
    default: null,
    freeOnResume: true,
    help: {
      en: 'Threads that read and encode records; sized to the machine unless given; 0: the main thread.',
      zh: '读取并编码记录的线程数；默认按机器决定；0 表示使用主线程。',
    },
  },
  dataloader_prefetch_factor: {
    kind: 'integer',
    min: 1,
    default: null,
    freeOnResume: true,
    idle: [{ when: [{ flag: 'dataloader_num_workers', is: [0] }] }],
    help: { en: 'Batches made ahead per thread; 2 unless given.', zh: '每个线程预先准备的批数；默认为 2。' },
  },
} as const satisfies FlagTable;

export const SEEDS = {
  seed: {
    kind: 'integer',
    min: 0,
    default: 42,
    help: { en: 'Seed of initialisation, dropout and noise.', zh: '初始化、dropout 和噪声的随机种子。' },
  },
  data_seed: {
    kind: 'integer',
    min: 0,
    derived: { en: 'seed', zh: '与 seed 相同' },
    help: { en: 'Seed of the order of records.', zh: '记录顺序的随机种子。' },
  },
} as const satisfies FlagTable;
