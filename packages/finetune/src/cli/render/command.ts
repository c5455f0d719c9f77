/** `minicpm-finetune render`: one record as tokens, and its pictures as a PNG. */

import { writeFile } from 'node:fs/promises';
import type { Compat } from '@minicpm-finetune/run';
import { type Flag, type FlagSpec, flagsOf } from '../../config/flags.js';
import { CONFIG_FLAGS } from '../../config/run-flags.js';
import { type CliCommand, type CommandIO, flagValue, requiredValue } from '../cli-command.js';
import { EXIT } from '../exit.js';
import { encoderFromFlags } from '../shared/encoder-flags.js';
import type { RenderedSample } from './render.js';

const { data, model } = CONFIG_FLAGS;

const FLAGS: readonly Flag[] = flagsOf({
  data: {
    data_path: { ...data.data_path, help: 'Data with the record (JSON, JSON Lines, parquet).' },
    record: { kind: 'integer', min: 0, default: 0, help: 'Which record, counted from 0 through all files.' },
    model_name_or_path: { ...model.model_name_or_path, help: 'Checkpoint whose tokenizer and slicing are used.' },
    cache_dir: model.cache_dir,
    llm_type: model.llm_type,
    model_max_length: data.model_max_length,
    overlong: data.overlong,
    max_slice_nums: model.max_slice_nums,
    scale_resolution: model.scale_resolution,
    max_image_pixels: data.max_image_pixels,
    allow_special_text: data.allow_special_text,
  },
  output: {
    compat: {
      kind: 'choice',
      choices: ['inference', 'official', 'both'],
      default: 'inference',
      help: 'How the record is encoded; both: the difference.',
    },
    contact_sheet: {
      kind: 'string',
      default: null,
      placeholder: 'file.png',
      help: 'Write the pictures the model sees to this PNG.',
    },
    color: {
      kind: 'choice',
      choices: ['auto', 'always', 'never'],
      default: 'auto',
      help: 'Colours; auto: on a terminal.',
    },
  },
} satisfies Record<string, Record<string, FlagSpec>>);

export const renderCommand: CliCommand = {
  text: {
    name: 'render',
    summary: 'Show one record as the model gets it.',
    description:
      'Prints the tokens of a record, who says them, and which the model learns to produce; on a terminal in colours.\n' +
      'With --contact_sheet, its pictures and their slices are written to a PNG.',
    headings: { data: 'Record, as for train:', output: 'What to show:' },
    examples: [
      'Example:',
      '',
      '    minicpm-finetune render --model_name_or_path openbmb/MiniCPM-V-2_6 --data_path invoices.json \\',
      '      --record 7 --contact_sheet record-7.png',
    ].join('\n'),
  },
  flags: FLAGS,
  async run(given, io) {
    const [{ Dataset }, { Encoder }, { renderRecord }, { formatDifference, formatRendered, LEGEND }] =
      await Promise.all([
        import('../../data/dataset.js'),
        import('../../data/encoder.js'),
        import('./render.js'),
        import('./text.js'),
      ]);
    const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
    const paths = requiredValue<string[]>(given, FLAGS, 'data_path');
    const encoder = await Encoder.open(await encoderFromFlags(given, FLAGS, io.stderr));
    const dataset = await Dataset.open(paths, (message) => io.stderr.write(`notice: ${message}\n`));
    try {
      const compat = value<Compat | 'both'>('compat');
      const render = (one: Compat) => renderRecord(dataset, value<number>('record'), encoder, one);
      const rendered = await render(compat === 'both' ? 'inference' : compat);
      const color = value<string>('color');
      const colour = color === 'always' || (color === 'auto' && io.stdout.isTTY === true);
      const lines =
        compat === 'both'
          ? formatDifference(await render('official'), rendered, colour)
          : formatRendered(rendered, colour);
      io.stdout.write(`${[LEGEND, ...lines].join('\n')}\n`);
      const sheet = value<string | null>('contact_sheet');
      if (sheet !== null) await writeSheet(sheet, rendered, encoder.setup.patchSize, io);
    } finally {
      await dataset.close();
    }
    return EXIT.ok;
  },
};

async function writeSheet(
  file: string,
  { sample, grids }: RenderedSample,
  patchSize: number,
  io: CommandIO,
): Promise<void> {
  if (sample.pictures.length === 0) {
    io.stderr.write(`notice: the record has no pictures; ${file} is not written\n`);
    return;
  }
  const { contactSheet } = await import('./contact-sheet.js');
  await writeFile(file, await contactSheet(sample.pictures, grids, patchSize));
  io.stderr.write(`${sample.pictures.length} pictures written to ${file}\n`);
}
