/** `minicpm-finetune download`: a hub model into the cache. The cache is Hugging Face's. */
import { CONFIG_FLAGS, type FlagTable, flagsOf } from '@minicpm-finetune/run';
import { type CliCommand, flagValue, requiredValue } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';

const FLAGS = flagsOf({
  download: {
    model_name_or_path: {
      kind: 'string',
      required: true,
      placeholder: 'hub-id',
      help: { en: 'Model to download.', zh: '要下载的模型。' },
    },
    revision: {
      kind: 'string',
      default: 'main',
      placeholder: 'name',
      help: { en: 'Branch, tag or commit.', zh: '分支、标签或提交。' },
    },
    cache_dir: {
      ...CONFIG_FLAGS.model.cache_dir,
      help: {
        en: 'Cache to download into; HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub unless given.',
        zh: '下载到的缓存目录；默认依次为 HF_HUB_CACHE、HF_HOME/hub、~/.cache/huggingface/hub。',
      },
    },
    allow: {
      kind: 'strings',
      default: null,
      placeholder: 'file...',
      help: {
        en: 'Files to download instead of those that a run needs; * and ? match any text and any character.',
        zh: '只下载这些文件，代替训练所需的文件；* 和 ? 分别表示任意文本和任意一个字符。',
      },
    },
    progress: CONFIG_FLAGS.logging.progress,
  },
} satisfies Record<string, FlagTable>);

export const downloadCommand: CliCommand = {
  text: {
    name: 'download',
    summary: { en: 'Download a model into the cache of Hugging Face.', zh: '把模型下载到 Hugging Face 缓存。' },
    description: {
      en: [
        'Downloads configuration, tokenizer, code and safetensors of a model of the hub, never pickles, and prints their folder.',
        'An interrupted download is resumed. Sizes and hashes are checked. Python finds the files in the same cache.',
        '',
        'HF_TOKEN gives access to private and gated models; HF_ENDPOINT names a mirror; HF_HOME puts the cache elsewhere.',
      ].join('\n'),
      zh: [
        '从 Hub 下载模型的配置、分词器、代码和 safetensors（不下载 pickle 文件），并打印所在目录。',
        '中断的下载会从断点继续。会核对大小和哈希值。Python 可以使用同一缓存中的文件。',
        '',
        'HF_TOKEN 用于访问私有和受限模型；HF_ENDPOINT 指定镜像；HF_HOME 更改缓存位置。',
      ].join('\n'),
    },
    argument: 'model_name_or_path',
    headings: { download: { en: 'Flags', zh: '参数' } },
    examples: example('minicpm-finetune download openbmb/MiniCPM-V-2_6'),
  },
  flags: FLAGS,
  async run(given, { stdout, stderr, say }) {
    const value = <T>(name: string): T => flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);
    const repo = requiredValue<string>(given, FLAGS, 'model_name_or_path');
    const allow = value<string[] | null>('allow');
    const [{ downloadModel }, { Progress }] = await Promise.all([
      import('../../hub/hub.js'),
      import('../../report/progress.js'),
    ]);
    const progress = new Progress({ mode: value('progress'), stream: stderr, output: stdout, say });
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
