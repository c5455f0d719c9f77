/** `minicpm-finetune merge`: adapters merged into their base. The result is a checkpoint that needs no adapter. */
import { type FlagTable, type FloatDType, flagsOf } from '@minicpm-finetune/run';
import { MODEL_FLAGS } from '../chat/flags.js';
import { type CliCommand, flagValue, requiredValue } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';
import { modelFolder } from '../shared/model-flag.js';

const FLAGS = flagsOf({
  merge: {
    model: { ...MODEL_FLAGS.model, help: { en: 'Base checkpoint of the adapter.', zh: '适配器的基础检查点。' } },
    cache_dir: MODEL_FLAGS.cache_dir,
    adapter: {
      ...MODEL_FLAGS.adapter,
      required: true,
      help: {
        en: 'Adapter folder. Repeat the flag to merge several; each is applied on top of the previous result.',
        zh: '适配器目录。可重复给出以合并多个适配器；每个都作用在前面的结果之上。',
      },
    },
    output_dir: {
      kind: 'string',
      required: true,
      placeholder: 'dir',
      help: { en: 'Output folder; new or empty.', zh: '输出目录；须为新目录或空目录。' },
    },
    dtype: {
      ...MODEL_FLAGS.dtype,
      help: { en: "Type to save in; the base's own unless given.", zh: '保存所用的数据类型；默认与基础检查点相同。' },
    },
    max_shard_size: {
      kind: 'bytes',
      default: 5e9,
      help: { en: 'Largest file of weights.', zh: '单个权重文件的最大字节数。' },
    },
    threads: MODEL_FLAGS.threads,
  },
} satisfies Record<string, FlagTable>);

export const mergeCommand: CliCommand = {
  text: {
    name: 'merge',
    summary: { en: 'Merge an adapter into its base.', zh: '把适配器合并到基础模型中。' },
    description: {
      en: [
        'Writes a checkpoint that computes the same as base and adapter together: sharded safetensors under the names of the base, with its',
        'configuration, tokenizer and code. The result is opened again, and its tensors and logits are compared.',
      ].join('\n'),
      zh: [
        '写出一个检查点，计算结果与基础模型加适配器相同：分片的 safetensors，张量名与基础模型一致，并附上它的配置、分词器和代码。',
        '写完后会重新打开，并比较张量和 logits。',
      ].join('\n'),
    },
    headings: { merge: { en: 'Flags', zh: '参数' } },
    examples: example(
      'minicpm-finetune merge --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices --output_dir merged',
    ),
  },
  flags: FLAGS,
  async run(given, io) {
    const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
    const options = {
      adapters: requiredValue<string[]>(given, FLAGS, 'adapter'),
      output: requiredValue<string>(given, FLAGS, 'output_dir'),
      dtype: value<FloatDType | null>('dtype'),
      maxShardBytes: value<number>('max_shard_size'),
      threads: value<number | null>('threads'),
      model: await modelFolder(given, FLAGS, 'model', io),
    };
    const [{ mergeAdapters }, { Progress }, { hashingTask }] = await Promise.all([
      import('./merge.js'),
      import('../../report/progress.js'),
      import('../../report/reporter.js'),
    ]);
    using progress = new Progress({ stream: io.stderr, say: io.say });
    using hashing = hashingTask(progress);
    const { tensors, changed, logitsError, notices } = mergeAdapters({ ...options, onHash: hashing.update });
    for (const notice of notices) progress.notice(notice);
    const message =
      `${tensors} tensors in ${options.output}, ${changed} of them changed. ` +
      `Their logits differ from those of base and adapter by at most ${logitsError.toExponential(1)} of the largest.`;
    io.stdout.write(`${io.say(message)}\n`);
    return EXIT.ok;
  },
};
