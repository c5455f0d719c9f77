/** `minicpm-finetune export`: a model for other programs. GGUF for llama.cpp and Ollama, safetensors for vLLM and SGLang. */
import { DEFAULT_OUTTYPE, type FlagTable, type FloatDType, flagsOf, OUTTYPES, UserError } from '@minicpm-finetune/run';
import type { GivenValues } from '../../config/flags.js';
import { MODEL_FLAGS } from '../chat/flags.js';
import { type CliCommand, type CommandIO, flagValue, requiredValue } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';
import { modelFolder } from '../shared/model-flag.js';
import type { ExportRequest } from './export.js';

const FLAGS = flagsOf({
  model: {
    model: { ...MODEL_FLAGS.model, help: { en: 'Checkpoint to export.', zh: '要导出的检查点。' } },
    cache_dir: MODEL_FLAGS.cache_dir,
    adapter: {
      ...MODEL_FLAGS.adapter,
      help: {
        en: 'Adapter folder, merged into the model. Repeat the flag to merge several; each is applied on top of the previous result.',
        zh: '适配器目录，会合并到模型中。可重复给出以合并多个适配器；每个都作用在前面的结果之上。',
      },
    },
    threads: MODEL_FLAGS.threads,
  },
  output: {
    output: {
      kind: 'string',
      required: true,
      placeholder: 'dir',
      help: { en: 'Output folder; new or empty.', zh: '输出目录；须为新目录或空目录。' },
    },
    format: {
      kind: 'choice',
      choices: ['gguf', 'safetensors'],
      default: 'gguf',
      help: {
        en: 'Files for llama.cpp and Ollama (gguf), or a folder for vLLM, SGLang and transformers (safetensors).',
        zh: 'gguf：供 llama.cpp 和 Ollama 使用的文件。safetensors：供 vLLM、SGLang 和 transformers 使用的目录。',
      },
    },
    outtype: {
      kind: 'choice',
      choices: [...OUTTYPES],
      default: DEFAULT_OUTTYPE,
      help: {
        en: "Type of the language model's matrices in GGUF; vision tower and resampler keep at least 16 bits.",
        zh: 'GGUF 中语言模型矩阵的类型；视觉塔和重采样器至少保留 16 位。',
      },
    },
    dtype: {
      ...MODEL_FLAGS.dtype,
      help: {
        en: "Type to save in with --format safetensors; the checkpoint's own unless given.",
        zh: '配合 --format safetensors：保存所用的数据类型；默认与检查点相同。',
      },
    },
    lora: {
      kind: 'boolean',
      default: false,
      help: {
        en: 'Export the adapter alone, not merged.',
        zh: '只导出适配器本身，不合并。',
      },
    },
    strip_modules_to_save: {
      kind: 'boolean',
      default: false,
      help: {
        en: 'Leave modules that the adapter saved whole out, for servers that take low-rank parts alone (with --lora --format safetensors).',
        zh: '去掉适配器整体保存的模块，用于只接受低秩部分的服务器（配合 --lora --format safetensors）。',
      },
    },
  },
} satisfies Record<string, FlagTable>);

export const exportCommand: CliCommand = {
  text: {
    name: 'export',
    summary: { en: 'Write a model for llama.cpp, Ollama, vLLM.', zh: '为 llama.cpp、Ollama、vLLM 写出模型。' },
    description: {
      en: [
        'Writes GGUF files: the language model, and vision tower and resampler with what was trained of them, with a chat template that makes the',
        'prompts of the training, and a Modelfile. They are read back and compared. Says what llama.cpp does otherwise, and how to run it.',
      ].join('\n'),
      zh: [
        '写出 GGUF 文件：语言模型，以及视觉塔和重采样器（包含训练过的部分），其中的聊天模板生成与训练相同的提示词；另有 Modelfile。',
        '写完后会读回并比较。会说明 llama.cpp 有哪些不同，以及如何运行。',
      ].join('\n'),
    },
    headings: { model: { en: 'Model', zh: '模型' }, output: { en: 'Output', zh: '输出' } },
    examples: example(
      'minicpm-finetune export --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices --outtype q4_k_m --output gguf',
    ),
  },
  flags: FLAGS,
  async run(given, io) {
    const request = requestOf(given);
    const model = await modelFolder(given, FLAGS, 'model', io);
    const [{ exportModel }, { Progress }] = await Promise.all([
      import('./export.js'),
      import('../../report/progress.js'),
    ]);
    using progress = new Progress({ stream: io.stderr, say: io.say });
    const { lines, notices } = exportModel({ ...request, model }, progress);
    for (const notice of notices) progress.notice(notice);
    print(lines, io);
    return EXIT.ok;
  },
};

function print(lines: readonly string[], io: CommandIO): void {
  for (const line of lines) io.stdout.write(`${io.say(line)}\n`);
}

function requestOf(given: GivenValues): Omit<ExportRequest, 'model'> {
  const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
  const request = {
    adapters: value<string[]>('adapter'),
    output: requiredValue<string>(given, FLAGS, 'output'),
    format: value<ExportRequest['format']>('format'),
    outtype: value<ExportRequest['outtype']>('outtype'),
    dtype: value<FloatDType | null>('dtype'),
    lora: value<boolean>('lora'),
    stripModulesToSave: value<boolean>('strip_modules_to_save'),
    threads: value<number | null>('threads'),
  };
  const { format, lora } = request;
  refuseIf(given.has('outtype') && format !== 'gguf', 'outtype', '--format gguf');
  refuseIf(given.has('outtype') && lora, 'outtype', 'a model, not with --lora: adapters are written in float32');
  refuseIf(given.has('dtype') && (format !== 'safetensors' || lora), 'dtype', '--format safetensors, without --lora');
  refuseIf(
    request.stripModulesToSave && !(lora && format === 'safetensors'),
    'strip_modules_to_save',
    '--lora --format safetensors',
  );
  if (lora && request.adapters.length !== 1)
    throw new UserError(`Expected one --adapter for --lora but received ${request.adapters.length}.`, {
      flag: '--lora',
      cure: 'Give one adapter, or leave --lora out: all are merged then.',
    });
  return request;
}

function refuseIf(wrong: boolean, flag: string, only: string): void {
  if (!wrong) return;
  throw new UserError(`Expected --${flag} only with ${only}.`, { flag: `--${flag}`, cure: 'Leave it out.' });
}
