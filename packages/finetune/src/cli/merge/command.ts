/** `minicpm-finetune merge`: adapters into their base, as a checkpoint that needs none. */

import type { DType } from '@minicpm-finetune/run';
import { type FlagSpec, flagsOf } from '../../config/flags.js';
import { MODEL_FLAGS } from '../chat/flags.js';
import { type CliCommand, flagValue, requiredValue } from '../cli-command.js';
import { EXIT } from '../exit.js';
import { modelFolder } from '../shared/model-flag.js';

const FLAGS = flagsOf({
  merge: {
    model: { ...MODEL_FLAGS.model, help: 'Base checkpoint of the adapter.' },
    cache_dir: MODEL_FLAGS.cache_dir,
    adapter: {
      ...MODEL_FLAGS.adapter,
      required: true,
      help: 'Adapter to merge; given several times, each goes on what the ones before made of the base.',
    },
    output_dir: { kind: 'string', required: true, placeholder: 'dir', help: 'Folder to make; new or empty.' },
    dtype: { ...MODEL_FLAGS.dtype, help: "Type to save in; the base's own unless given." },
    max_shard_size: { kind: 'bytes', default: 5e9, help: 'Largest file of weights.' },
    threads: MODEL_FLAGS.threads,
  },
} satisfies Record<string, Record<string, FlagSpec>>);

export const mergeCommand: CliCommand = {
  text: {
    name: 'merge',
    summary: 'Merge an adapter into its base.',
    description: [
      'Writes a checkpoint that computes what base and adapter compute together: sharded safetensors under the names of the base, its',
      'configuration, tokenizer and code beside them. What was written is opened again, and its tensors and logits are compared.',
    ].join('\n'),
    headings: { merge: 'Flags:' },
    examples: [
      'Example:',
      '',
      '    minicpm-finetune merge --model openbmb/MiniCPM-V-2_6 --adapter runs/invoices --output_dir merged',
    ].join('\n'),
  },
  flags: FLAGS,
  async run(given, { stdout, stderr }) {
    const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
    const options = {
      adapters: requiredValue<string[]>(given, FLAGS, 'adapter'),
      output: requiredValue<string>(given, FLAGS, 'output_dir'),
      dtype: value<DType | null>('dtype'),
      maxShardBytes: value<number>('max_shard_size'),
      threads: value<number | null>('threads'),
      model: await modelFolder(given, FLAGS, 'model', stderr),
    };
    const { mergeAdapters } = await import('./merge.js');
    const { tensors, changed, logitsError } = mergeAdapters(options);
    stdout.write(
      `${tensors} tensors in ${options.output}, ${changed} of them changed. ` +
        `Their logits are those of base and adapter to ${logitsError.toExponential(1)} of the largest.\n`,
    );
    return EXIT.ok;
  },
};
