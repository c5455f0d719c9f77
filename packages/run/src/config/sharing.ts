/** Flags of a training: what is shared out, or offloaded. */
import type { FlagTable } from './spec.js';

export const SHARING = {
  zero_stage: {
    kind: 'choice',
    choices: ['0', '1', '2', '3', 'auto'],
    default: 'auto',
    freeOnResume: true,
    help: {
      en:
        'What several processes share out instead of each having all of it: 0: nothing; 1 and 2: optimizer and ' +
        'gradients; 3: parameters too; auto: 2 with LoRA, else 3.',
      zh: '多进程时分摊哪些内容（而不是各存一份）：0 不分摊；1 和 2 优化器和梯度；3 还有参数；auto 表示 LoRA 用 2，否则用 3。',
    },
  },
  offload_optimizer: {
    kind: 'string',
    placeholder: 'none|cpu|dir',
    freeOnResume: true,
    derived: { en: 'that of --offload_params', zh: '与 --offload_params 相同' },
    help: {
      en:
        'Where the states of the optimizer are, float32 weights and moments, and the update runs on the CPU; none: on ' +
        'the device; cpu: in host memory; a folder: in files there that have no name and go with the process.',
      zh:
        '优化器状态（float32 权重和动量）存放在哪里，更新在 CPU 上进行；none：在设备上；cpu：在主机内存中；' +
        '目录：在该目录下没有名称、随进程消失的文件中。',
    },
  },
  offload_params: {
    kind: 'string',
    default: 'none',
    placeholder: 'none|cpu|dir',
    freeOnResume: true,
    help: {
      en:
        'Where the weights are, of which a block is on the device while it runs: none, cpu and a folder as for ' +
        '--offload_optimizer. So a model larger than the memory trains.',
      zh:
        '权重存放在哪里，每个模块只在计算时才在设备上；none、cpu 和目录的含义与 --offload_optimizer 相同。' +
        '这样可以训练比内存更大的模型。',
    },
  },
  ddp_timeout: {
    kind: 'integer',
    min: 1,
    default: 1800,
    placeholder: 'seconds',
    freeOnResume: true,
    help: {
      en: 'Seconds that a process waits for another one before the run fails.',
      zh: '一个进程等待另一个进程的最长秒数，超过后训练失败。',
    },
  },
} as const satisfies FlagTable;
