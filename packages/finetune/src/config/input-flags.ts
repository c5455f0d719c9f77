/** Flags of `train` that only set other flags. They have no key in the resolved configuration (`resolve.ts`). */
import { type FlagTable, INTERVALS, type Text } from '@minicpm-finetune/run';

const sameAs = (flag: string): Text => ({ en: `The same as ${flag}.`, zh: `等同于 ${flag}。` });

export const INPUT_FLAGS = {
  recipe: {
    kind: 'string',
    default: null,
    placeholder: 'file',
    help: {
      en: 'YAML or JSON file with the same keys as the flags; flags win.',
      zh: 'YAML 或 JSON 配置文件，键名与参数相同；命令行参数优先。',
    },
  },
  config: { kind: 'string', default: null, placeholder: 'file', help: sameAs('--recipe') },
  deepspeed: {
    kind: 'string',
    default: null,
    placeholder: 'file',
    help: {
      en: 'DeepSpeed JSON file, read for precision, optimizer, scheduler, clipping and the stage of ZeRO; flags win.',
      zh: 'DeepSpeed JSON 文件，读取其中的精度、优化器、调度、梯度裁剪和 ZeRO 阶段设置；命令行参数优先。',
    },
  },
  dry_run: {
    kind: 'boolean',
    choices: ['measure', 'json'],
    placeholder: 'true|false|measure|json',
    default: false,
    help: {
      en:
        'Check everything the command line says, print the resolved recipe, and end. measure: also take two steps on noise, and print ' +
        'the memory measured beside the estimate; of several processes one takes them, without the others. json: print all of it, or the ' +
        'mistake, as one JSON object.',
      zh: '检查命令行的全部内容，打印解析后的配置，然后结束。measure 表示另用噪声数据运行两步，并把实测内存与估算并列打印；多个进程时只运行其中一个，不需要其余进程。json 表示把全部结果（或错误）打印成一个 JSON 对象。',
    },
  },
  bf16: { kind: 'boolean', default: false, help: sameAs('--dtype bfloat16') },
  fp16: { kind: 'boolean', default: false, help: sameAs('--dtype float16') },
  use_cpu: { kind: 'boolean', default: false, help: sameAs('--device cpu') },
  no_cuda: { kind: 'boolean', default: false, help: sameAs('--device cpu') },
  evaluation_strategy: { kind: 'choice', choices: INTERVALS, default: 'no', help: sameAs('--eval_strategy') },
  optim: {
    kind: 'choice',
    choices: ['adamw_torch', 'adamw_torch_fused', 'adamw_hf'],
    default: 'adamw_torch_fused',
    help: {
      en: 'AdamW under each of its names; all of them compute the same here.',
      zh: 'AdamW 的各种名称；在这里计算完全相同。',
    },
  },
} as const satisfies FlagTable;
