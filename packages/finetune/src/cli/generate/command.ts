/** `minicpm-finetune generate`: answers for a data file, as JSON Lines. */

import type { DType } from '@minicpm-finetune/run';
import { type FlagSpec, flagsOf, type GivenValues } from '../../config/flags.js';
import { CONFIG_FLAGS } from '../../config/run-flags.js';
import { MODEL_FLAGS, SAMPLING_FLAGS } from '../chat/flags.js';
import { type CliCommand, flagValue, requiredValue } from '../cli-command.js';
import { EXIT } from '../exit.js';
import { modelFolder } from '../shared/model-flag.js';
import type { AnswerFileOptions, GenerateSummary } from './generate.js';

const FLAGS = flagsOf({
  model: MODEL_FLAGS,
  data: {
    data_path: { ...CONFIG_FLAGS.data.data_path, help: 'Records to answer (JSON, JSON Lines, parquet).' },
    output: {
      kind: 'string',
      required: true,
      placeholder: 'file',
      help: 'JSON Lines file to write; an unfinished one is gone on with.',
    },
    batch_size: { kind: 'integer', min: 1, default: 8, help: 'Records answered side by side.' },
    max_slice_nums: {
      kind: 'integer',
      min: 1,
      default: null,
      help: "Most slices a picture is cut into; the checkpoint's unless given.",
    },
    allow_special_text: CONFIG_FLAGS.data.allow_special_text,
  },
  sampling: SAMPLING_FLAGS,
} satisfies Record<string, Record<string, FlagSpec>>);

export const generateCommand: CliCommand = {
  text: {
    name: 'generate',
    summary: 'Answer every record of a data file.',
    description: [
      "Asks a checkpoint, with or without adapters on it, each record's last question, and writes the answers beside the record's own.",
      'Can be stopped and started again: what is answered stays. The last line counts the answers that are exactly the reference.',
    ].join('\n'),
    headings: { model: 'Model:', data: 'Data and output:', sampling: 'Answers:' },
    examples: [
      'Example:',
      '',
      '    minicpm-finetune generate --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices --data_path test.json --output answers.jsonl',
    ].join('\n'),
  },
  flags: FLAGS,
  async run(given, { stdout, stderr }) {
    const asked = resolveGenerateOptions(given);
    const options = { ...asked, model: await modelFolder(given, FLAGS, 'model', stderr) };
    const [{ generateAnswers }, { Progress }] = await Promise.all([
      import('./generate.js'),
      import('../../report/progress.js'),
    ]);
    const progress = new Progress({ stream: stderr });
    try {
      const summary = await generateAnswers(options, { reporter: progress });
      stdout.write(`${describe(summary, options.output)}\n`);
      return EXIT.ok;
    } finally {
      progress.close();
    }
  },
};

function describe({ records, resumed, exactMatch }: GenerateSummary, output: string): string {
  const before = resumed === 0 ? '' : `, ${resumed} of them by an earlier run`;
  const match = exactMatch === null ? '' : ` ${(100 * exactMatch).toFixed(1)} % are exactly the reference.`;
  return `${records} answers in ${output}${before}.${match}`;
}

/** @throws UserError without a model, data or output. */
export function resolveGenerateOptions(given: GivenValues): AnswerFileOptions {
  const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
  return {
    model: requiredValue<string>(given, FLAGS, 'model'),
    dataPaths: requiredValue<string[]>(given, FLAGS, 'data_path'),
    output: requiredValue<string>(given, FLAGS, 'output'),
    adapters: value<string[]>('adapter'),
    batchSize: value<number>('batch_size'),
    allowSpecialText: value<boolean>('allow_special_text'),
    maxSliceNums: value<number | null>('max_slice_nums'),
    maxNewTokens: value<number>('max_new_tokens'),
    temperature: value<number>('temperature'),
    topP: value<number>('top_p'),
    topK: value<number>('top_k'),
    repetitionPenalty: value<number>('repetition_penalty'),
    seed: value<number>('seed'),
    dtype: value<DType | null>('dtype'),
    device: value<AnswerFileOptions['device']>('device'),
    threads: value<number | null>('threads'),
  };
}
