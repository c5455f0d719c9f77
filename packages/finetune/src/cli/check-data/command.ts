/** `minicpm-finetune check-data`: the whole data before any training, with exit code 2 if a record is bad. */

import type { Flag, FlagSpec } from '../../config/flags.js';
import { flagsOf } from '../../config/flags.js';
import { CONFIG_FLAGS } from '../../config/run-flags.js';
import type { CliCommand } from '../cli-command.js';
import { flagValue, requiredValue } from '../cli-command.js';
import { EXIT } from '../exit.js';
import { encoderFromFlags } from '../shared/encoder-flags.js';

const { data, model, loader } = CONFIG_FLAGS;

const FLAGS: readonly Flag[] = flagsOf({
  data: {
    data_path: { ...data.data_path, help: 'Data to check (JSON, JSON Lines, parquet).' },
    model_name_or_path: { ...model.model_name_or_path, help: 'Checkpoint whose tokenizer and slicing are used.' },
    cache_dir: model.cache_dir,
    llm_type: model.llm_type,
    model_max_length: data.model_max_length,
    overlong: data.overlong,
    max_slice_nums: model.max_slice_nums,
    scale_resolution: model.scale_resolution,
    max_image_pixels: data.max_image_pixels,
    compat: data.compat,
    allow_special_text: data.allow_special_text,
  },
  output: {
    dataloader_num_workers: { ...loader.dataloader_num_workers, help: 'Threads; one per core unless given.' },
    max_shown: { kind: 'integer', min: 0, default: 20, help: 'Errors, and warnings, that are printed.' },
    json: { kind: 'boolean', default: false, help: 'Print the whole report as one JSON object on standard output.' },
  },
} satisfies Record<string, Record<string, FlagSpec>>);

export const checkDataCommand: CliCommand = {
  text: {
    name: 'check-data',
    summary: 'Find every bad record before training does.',
    description:
      'Reads, encodes and measures every record as training would. Changes nothing. Ends with 2 if a record is bad.\n' +
      'Lengths are those of whole records, so that --model_max_length can be chosen by them.',
    headings: { data: 'Data, as for train:', output: 'Work and report:' },
    examples: [
      'Example:',
      '',
      '    minicpm-finetune check-data --model_name_or_path openbmb/MiniCPM-V-2_6 --data_path invoices.json',
    ].join('\n'),
  },
  flags: FLAGS,
  async run(given, io) {
    const [{ checkRecords }, { formatReport }, { Progress }] = await Promise.all([
      import('./check-data.js'),
      import('./report.js'),
      import('../../report/progress.js'),
    ]);
    const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
    const paths = requiredValue<string[]>(given, FLAGS, 'data_path');
    const encoder = await encoderFromFlags(given, FLAGS, io.stderr);
    const progress = new Progress({ stream: io.stderr });
    try {
      const threads = value<number | null>('dataloader_num_workers');
      const report = await checkRecords({ paths, encoder, threads, reporter: progress });
      io.stdout.write(
        `${value<boolean>('json') ? JSON.stringify(report) : formatReport(report, value<number>('max_shown'))}\n`,
      );
      return report.errors.length > 0 ? EXIT.usage : EXIT.ok;
    } finally {
      progress.close();
    }
  },
};
