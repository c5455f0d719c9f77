/** `minicpm-finetune check-data`: checks all data. Exit code 2 if a record is bad. */
import { CONFIG_FLAGS, type Flag, type FlagTable, flagsOf } from '@minicpm-finetune/run';
import type { CliCommand } from '../cli-command.js';
import { flagValue, requiredValue, sayIdle } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';
import { ADAPTER_SLICES, encoderFromFlags, THINKING_AND_VIDEOS } from '../shared/encoder-flags.js';

const { data, model, loader, preference } = CONFIG_FLAGS;

const FLAGS: readonly Flag[] = flagsOf({
  data: {
    data_path: {
      ...data.data_path,
      help: { en: 'Data to check (JSON, JSON Lines, parquet).', zh: '要检查的数据（JSON、JSON Lines 或 parquet）。' },
    },
    model_name_or_path: {
      ...model.model_name_or_path,
      help: { en: 'Checkpoint whose tokenizer and slicing are used.', zh: '使用其分词器和切片方式的检查点。' },
    },
    cache_dir: model.cache_dir,
    llm_type: model.llm_type,
    model_max_length: data.model_max_length,
    overlong: data.overlong,
    adapter: ADAPTER_SLICES,
    max_slice_nums: model.max_slice_nums,
    scale_resolution: model.scale_resolution,
    ...THINKING_AND_VIDEOS,
    max_image_pixels: data.max_image_pixels,
    compat: data.compat,
    allow_special_text: data.allow_special_text,
    preference: {
      ...preference.preference,
      help: {
        en: 'Records have answers to compare, as for training with this loss.',
        zh: '记录含有要比较的回答，与用该损失训练时相同。',
      },
    },
  },
  output: {
    dataloader_num_workers: {
      ...loader.dataloader_num_workers,
      help: {
        en: 'Threads; one per core unless given, none for a few records.',
        zh: '线程数；默认每个核一个，记录很少时不用线程。',
      },
    },
    max_shown: {
      kind: 'integer',
      min: 0,
      default: 20,
      help: { en: 'Most errors, and most warnings, that are printed.', zh: '最多打印的错误数，以及最多打印的警告数。' },
    },
    json: {
      kind: 'boolean',
      default: false,
      help: {
        en: 'Print the whole report as one JSON object on standard output.',
        zh: '在标准输出上把整份报告打印成一个 JSON 对象。',
      },
    },
    per_record: {
      kind: 'boolean',
      default: false,
      idle: [{ when: [{ flag: 'json', is: [false] }] }],
      help: {
        en: 'With --json: the tokens, learned tokens and images of each record, too.',
        zh: '使用 --json 时：另外给出每条记录的词元数、学习的词元数和图片数。',
      },
    },
  },
} satisfies Record<string, FlagTable>);

export const checkDataCommand: CliCommand = {
  text: {
    name: 'check-data',
    summary: { en: 'Find every bad record before training.', zh: '在训练之前找出所有坏记录。' },
    description: {
      en:
        'Reads, encodes and measures every record as training would. Changes nothing. Ends with 2 if a record is bad.\n' +
        'Lengths are those of whole records, so --model_max_length can be chosen from them.',
      zh:
        '像训练时一样读取、编码并统计每条记录。不改动任何文件。有坏记录时退出码为 2。\n' +
        '长度按完整记录统计，可据此选择 --model_max_length。',
    },
    headings: {
      data: { en: 'Data, as for train', zh: '数据（与 train 相同）' },
      output: { en: 'Work and report', zh: '执行与报告' },
    },
    examples: example(
      'minicpm-finetune check-data --model_name_or_path openbmb/MiniCPM-V-2_6 --data_path invoices.json',
    ),
  },
  flags: FLAGS,
  async run(given, io) {
    const [{ checkRecords }, { formatReport }, { Progress }] = await Promise.all([
      import('./check-data.js'),
      import('./report.js'),
      import('../../report/progress.js'),
    ]);
    const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
    sayIdle(given, FLAGS, io);
    const paths = requiredValue<string[]>(given, FLAGS, 'data_path');
    const encoder = await encoderFromFlags(given, FLAGS, io);
    const progress = new Progress({ stream: io.stderr, say: io.say });
    try {
      const threads = value<number | null>('dataloader_num_workers');
      const report = await checkRecords({
        paths,
        encoder,
        threads,
        perRecord: value<boolean>('per_record'),
        reporter: progress,
      });
      io.stdout.write(
        `${value<boolean>('json') ? JSON.stringify(report) : formatReport(report, value<number>('max_shown'), io.say)}\n`,
      );
      return report.errors.length > 0 ? EXIT.usage : EXIT.ok;
    } finally {
      progress.close();
    }
  },
};
