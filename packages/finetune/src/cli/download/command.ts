/** `minicpm-finetune download`: a model of the Hugging Face hub into its cache. */

import { type FlagSpec, flagsOf } from '../../config/flags.js';
import { CONFIG_FLAGS } from '../../config/run-flags.js';
import { type CliCommand, flagValue, requiredValue } from '../cli-command.js';
import { EXIT } from '../exit.js';

const FLAGS = flagsOf({
  download: {
    model_name_or_path: { kind: 'string', required: true, placeholder: 'hub-id', help: 'Model to download.' },
    revision: { kind: 'string', default: 'main', placeholder: 'name', help: 'Branch, tag or commit.' },
    cache_dir: {
      ...CONFIG_FLAGS.model.cache_dir,
      help: 'Cache to download into; HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub unless given.',
    },
    allow: {
      kind: 'strings',
      default: null,
      placeholder: 'file...',
      help: 'Files to download in place of those that a run needs; * and ? stand for any text and any character.',
    },
    progress: CONFIG_FLAGS.logging.progress,
  },
} satisfies Record<string, Record<string, FlagSpec>>);

export const downloadCommand: CliCommand = {
  text: {
    name: 'download',
    summary: 'Download a model into the cache of Hugging Face.',
    description: [
      'Fetches configuration, tokenizer, code and safetensors of a model of the hub, never pickles, and prints the folder they are in.',
      'A download that was broken off is gone on with. Sizes and hashes are checked. Python finds the files in the same cache.',
      '',
      'HF_TOKEN gives access to private and gated models; HF_ENDPOINT names a mirror; HF_HOME puts the cache elsewhere.',
    ].join('\n'),
    argument: 'model_name_or_path',
    headings: { download: 'Flags:' },
    examples: ['Example:', '', '    minicpm-finetune download openbmb/MiniCPM-V-2_6'].join('\n'),
  },
  flags: FLAGS,
  async run(given, { stdout, stderr }) {
    const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
    const repo = requiredValue<string>(given, FLAGS, 'model_name_or_path');
    const allow = value<string[] | null>('allow');
    const [{ downloadModel }, { Progress }] = await Promise.all([
      import('../../hub/hub.js'),
      import('../../report/progress.js'),
    ]);
    const progress = new Progress({ mode: value('progress'), stream: stderr, output: stdout });
    try {
      const folder = await downloadModel(repo, {
        flag: '--model_name_or_path',
        reporter: progress,
        revision: value<string>('revision'),
        cacheDir: value<string | null>('cache_dir'),
        ...(allow === null ? {} : { allow }),
      });
      stdout.write(`${folder}\n`);
      return EXIT.ok;
    } finally {
      progress.close();
    }
  },
};
