/** `minicpm-finetune generate`: answers for a data file. */
import { CONFIG_FLAGS, type FlagTable, type FloatDType, flagsOf } from '@minicpm-finetune/run';
import type { GivenValues } from '../../config/flags.js';
import { MODEL_FLAGS, SAMPLING_FLAGS, SLICE_FLAGS, VIDEO_FLAGS, videoOf } from '../chat/flags.js';
import { type CliCommand, flagValue, requiredValue, sayIdle } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';
import { modelFolder } from '../shared/model-flag.js';
import type { GenerateSummary } from './generate.js';
import type { AnswerFileOptions } from './options.js';

const FLAGS = flagsOf({
  model: MODEL_FLAGS,
  data: {
    data_path: {
      ...CONFIG_FLAGS.data.data_path,
      help: {
        en: 'Records to answer (JSON, JSON Lines, parquet).',
        zh: '要回答的记录（JSON、JSON Lines 或 parquet）。',
      },
    },
    output: {
      kind: 'string',
      required: true,
      placeholder: 'file',
      help: {
        en: 'JSON Lines output file; an unfinished file is resumed.',
        zh: 'JSON Lines 输出文件；未完成的文件会接着写。',
      },
    },
    batch_size: {
      kind: 'integer',
      min: 1,
      default: 8,
      help: { en: 'Records answered at the same time.', zh: '同时回答的记录数。' },
    },
    ...SLICE_FLAGS,
    ...VIDEO_FLAGS,
    allow_special_text: CONFIG_FLAGS.data.allow_special_text,
    on_bad_record: {
      ...CONFIG_FLAGS.data.on_bad_record,
      help: {
        en: 'Stop at a record that cannot be asked, or write a line with the error and skip it.',
        zh: '遇到无法提问的记录时停止，或写一行错误说明并跳过。',
      },
    },
    ask_changed: {
      kind: 'boolean',
      default: false,
      help: {
        en: 'When resumed: ask changed records again; their old answers are kept aside. Otherwise the file is refused.',
        zh: '续写时：内容已变的记录重新提问，旧回答另存；否则拒绝该文件。',
      },
    },
  },
  sampling: SAMPLING_FLAGS,
} satisfies Record<string, FlagTable>);

const STOPPING = 'Stopping: the answers under way are finished first. Once more ends at once.';

export const generateCommand: CliCommand = {
  text: {
    name: 'generate',
    summary: { en: 'Answer every record of a data file.', zh: '回答数据文件中的每条记录。' },
    description: {
      en: [
        "Asks a checkpoint, with or without adapters, each record's last question and writes the answers beside the record's own.",
        'Can be stopped and resumed: finished answers are kept. The last line counts the answers that equal the reference exactly; a think block in front of either is cut off before they are compared.',
      ].join('\n'),
      zh: [
        '用检查点（可加适配器）回答每条记录的最后一个问题，并把回答写在记录自带的回答旁边。',
        '可以停止后再继续：已完成的回答会保留。最后一行统计与参考答案完全一致的回答；比较之前，两者开头的思考块都会去掉。',
      ].join('\n'),
    },
    headings: {
      model: { en: 'Model', zh: '模型' },
      data: { en: 'Data and output', zh: '数据与输出' },
      sampling: { en: 'Answers', zh: '回答' },
    },
    examples: example(
      'minicpm-finetune generate --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices --data_path test.json --output answers.jsonl',
    ),
  },
  flags: FLAGS,
  async run(given, io) {
    const { stdout, stderr } = io;
    sayIdle(given, FLAGS, io);
    const asked = resolveGenerateOptions(given);
    const options = { ...asked, model: await modelFolder(given, FLAGS, 'model', io) };
    const [{ generateAnswers }, { Progress }, { ProcessSignals }] = await Promise.all([
      import('./generate.js'),
      import('../../report/progress.js'),
      import('../shared/signals.js'),
    ]);
    using progress = new Progress({ stream: stderr, say: io.say });
    const signals = new ProcessSignals(io.say, STOPPING);
    signals.listen();
    try {
      const summary = await generateAnswers(options, { reporter: progress, signal: signals.signal });
      stdout.write(`${describe(summary, options.output).map(io.say).join(' ')}\n`);
      return summary.left > 0 && signals.signal.reason === 'sigint' ? EXIT.interrupted : EXIT.ok;
    } finally {
      signals.close();
    }
  },
};

/** Sentences. */
function describe(summary: GenerateSummary, output: string): string[] {
  const { records, resumed, bad, left, compared, exact } = summary;
  const answers = `${records} answer${records === 1 ? '' : 's'}`;
  const complete = left === 0 && resumed === records && bad === 0;
  const before = resumed === 0 ? '' : `, ${resumed} of them by an earlier run`;
  const parts = [
    complete
      ? `${output} is complete: ${answers} by an earlier run, nothing was asked.`
      : `${answers} in ${output}${before}.`,
  ];
  if (bad > 0)
    parts.push(
      `${bad} record${bad === 1 ? '' : 's'} could not be asked: see "error" there. The same command asks again.`,
    );
  if (left > 0) parts.push(`Stopped: ${left} records are left. The same command asks them.`);
  if (compared > 0)
    parts.push(`${((100 * exact) / compared).toFixed(1)} % equal the reference (${exact} of ${compared}).`);
  return parts;
}

/** @throws UserError without a model, data or output. */
function resolveGenerateOptions(given: GivenValues): AnswerFileOptions {
  const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
  return {
    model: requiredValue<string>(given, FLAGS, 'model'),
    dataPaths: requiredValue<string[]>(given, FLAGS, 'data_path'),
    output: requiredValue<string>(given, FLAGS, 'output'),
    adapters: value<string[]>('adapter'),
    batchSize: value<number>('batch_size'),
    allowSpecialText: value<boolean>('allow_special_text'),
    onBadRecord: value<'stop' | 'skip'>('on_bad_record'),
    askChanged: value<boolean>('ask_changed'),
    maxSliceNums: value<number | null>('max_slice_nums'),
    scaleResolution: value<number | null>('scale_resolution'),
    video: videoOf(value),
    maxNewTokens: value<number>('max_new_tokens'),
    temperature: value<number>('temperature'),
    topP: value<number>('top_p'),
    topK: value<number>('top_k'),
    repetitionPenalty: value<number>('repetition_penalty'),
    seed: value<number>('seed'),
    enableThinking: value<boolean>('enable_thinking'),
    dtype: value<FloatDType | null>('dtype'),
    loadIn8Bit: value<boolean>('load_in_8bit'),
    device: value<AnswerFileOptions['device']>('device'),
    threads: value<number | null>('threads'),
  };
}
