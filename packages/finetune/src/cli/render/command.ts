/** `minicpm-finetune render`: a record as tokens and as a PNG. */
import { relative } from 'node:path';
import type { ImageSource } from '@minicpm-finetune/processor';
import { CONFIG_FLAGS, type Compat, type Flag, type FlagTable, flagsOf } from '@minicpm-finetune/run';
import type { EncoderSetup } from '../../data/encoder.js';
import { type CliCommand, type CommandIO, flagValue, requiredValue } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';
import { ADAPTER_SLICES, encoderFromFlags, THINKING_AND_VIDEOS } from '../shared/encoder-flags.js';
import { writeNewFile } from '../shared/new-file.js';
import type { ImageInfo, VideoInfo } from './contact-sheet.js';
import type { RenderedSample } from './render.js';

const { data, model, preference } = CONFIG_FLAGS;

const FLAGS: readonly Flag[] = flagsOf({
  data: {
    data_path: {
      ...data.data_path,
      help: {
        en: 'Data with the record (JSON, JSON Lines, parquet).',
        zh: '记录所在的数据（JSON、JSON Lines 或 parquet）。',
      },
    },
    record: {
      kind: 'integer',
      min: 0,
      default: 0,
      help: { en: 'Which record, counted from 0 through all files.', zh: '第几条记录，从 0 开始，跨所有文件计数。' },
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
    compat: {
      kind: 'choice',
      choices: ['inference', 'official', 'both'],
      default: 'inference',
      help: { en: 'How the record is encoded; both: the difference.', zh: '记录的编码方式；both 显示两者的差别。' },
    },
    contact_sheet: {
      kind: 'string',
      default: null,
      placeholder: 'file.png',
      help: { en: 'Write the pictures the model sees to this PNG.', zh: '把模型看到的图片写到这个 PNG 文件。' },
    },
    json: {
      kind: 'boolean',
      default: false,
      help: {
        en: 'Print the record as one JSON object: conversation, images, and each token with its id, speaker and label.',
        zh: '把记录打印成一个 JSON 对象：对话、图片，以及每个词元的 id、说话者和标签。',
      },
    },
    requests: {
      kind: 'boolean',
      default: false,
      help: {
        en: 'Answer requests about records, JSON objects line by line on standard input, on standard output.',
        zh: '在标准输出上回答关于记录的请求；请求是标准输入上逐行的 JSON 对象。',
      },
    },
    color: {
      kind: 'choice',
      choices: ['auto', 'always', 'never'],
      default: 'auto',
      help: { en: 'Colours; auto: on a terminal.', zh: '彩色输出；auto 表示仅在终端上使用。' },
    },
  },
} satisfies Record<string, FlagTable>);

export const renderCommand: CliCommand = {
  text: {
    name: 'render',
    summary: { en: 'Show one record as the model gets it.', zh: '按模型看到的样子显示一条记录。' },
    description: {
      en:
        'Prints the tokens of a record, their speakers, and which are supervised; on a terminal in colours.\n' +
        'With --contact_sheet, its pictures and slices are written to a PNG.',
      zh:
        '打印一条记录的词元、由谁说出、以及模型学习生成哪些；在终端上以颜色区分。\n' +
        '使用 --contact_sheet 时，图片及其切片会写入一个 PNG 文件。',
    },
    headings: {
      data: { en: 'Record, as for train', zh: '记录（与 train 相同）' },
      output: { en: 'What to show', zh: '显示内容' },
    },
    examples: example(
      'minicpm-finetune render --model_name_or_path openbmb/MiniCPM-V-2_6 --data_path invoices.json \\',
      '  --record 7 --contact_sheet record-7.png',
    ),
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
    const encoder = await Encoder.open(await encoderFromFlags(given, FLAGS, io));
    const dataset = await Dataset.open(paths, (message) => io.stderr.write(`${io.say(`notice: ${message}`)}\n`));
    try {
      const compat = given.has('compat') ? value<Compat | 'both'>('compat') : (encoder.setup.compat ?? 'inference');
      if (value<boolean>('requests')) {
        const { answerRequests } = await import('./requests.js');
        await answerRequests(dataset, encoder, process.stdin, io.stdout);
        return EXIT.ok;
      }
      if (value<boolean>('json')) {
        const { recordJson } = await import('./json.js');
        const compats = compat === 'both' ? (['inference', 'official'] as const) : [compat];
        const { json } = await recordJson(dataset, value<number>('record'), encoder, compats);
        io.stdout.write(`${JSON.stringify(json)}\n`);
        return json.encodings.some(({ error }) => error !== null) ? EXIT.usage : EXIT.ok;
      }
      const render = (one: Compat) => renderRecord(dataset, value<number>('record'), encoder, one);
      const rendered = await render(compat === 'both' ? 'inference' : compat);
      const color = value<string>('color');
      const colour = color === 'always' || (color === 'auto' && io.stdout.isTTY === true);
      const lines =
        compat === 'both'
          ? formatDifference(await render('official'), rendered, colour, io.say)
          : formatRendered(rendered, colour, io.say);
      io.stdout.write(`${[io.say(LEGEND), ...lines].join('\n')}\n`);
      const sheet = value<string | null>('contact_sheet');
      if (sheet !== null) await writeSheet(sheet, rendered, encoder.setup, io);
    } finally {
      await dataset.close();
    }
    return EXIT.ok;
  },
};

async function writeSheet(file: string, rendered: RenderedSample, setup: EncoderSetup, io: CommandIO): Promise<void> {
  const { sample, shownImages, images, shownVideos, videos } = rendered;
  if (sample.pictures.length === 0) {
    io.stderr.write(`${io.say(`notice: the record has no pictures; ${file} is not written`)}\n`);
    return;
  }
  const [{ contactSheet }, { undrawable }, { measureImage, PILLOW_MAX_PIXELS }] = await Promise.all([
    import('./contact-sheet.js'),
    import('./labels.js'),
    import('@minicpm-finetune/processor'),
  ]);
  const infos: ImageInfo[] = [];
  for (const [i, { source, turn, role }] of images.entries()) {
    const size = await measureImage(source, { maxImagePixels: setup.maxImagePixels ?? PILLOW_MAX_PIXELS });
    infos.push({ name: nameOf(source), size, turn, role, shown: shownImages[i]! });
  }
  const clips = videos.map(({ source, turn, role }, i): VideoInfo => {
    const name = typeof source === 'string' ? nameOf(source) : `${nameOf(source[0]!)}, ...`;
    return { name, turn, role, shown: shownVideos[i]! };
  });
  writeNewFile(file, await contactSheet(sample.pictures, infos, clips, setup.patchSize), '--contact_sheet');
  io.stderr.write(`${io.say(`${sample.pictures.length} pictures written to ${file}`)}\n`);
  for (const { name } of [...infos, ...clips]) {
    const characters = await undrawable(name);
    if (characters.length === 0) continue;
    const message = `no font of this machine has ${characters.join(' ')}: they are written as numbers in the label of ${name}`;
    io.stderr.write(`${io.say(`notice: ${message}`)}\n`);
  }
}

const LONGEST_NAME = 160;

/** The path from the working folder where it is below, and of a long one its end. */
function nameOf(source: ImageSource): string {
  if (typeof source !== 'string') return 'in the data';
  const below = relative(process.cwd(), source);
  const name = below.startsWith('..') ? source : below;
  return name.length > LONGEST_NAME ? `...${name.slice(-LONGEST_NAME)}` : name;
}
