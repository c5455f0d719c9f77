/** `minicpm-finetune estimate`: the memory of a training. From config.json alone, on 1, 2, 4, 8 devices. */
import { existsSync, statSync } from 'node:fs';
import type { ModelConfig } from '@minicpm-finetune/processor';
import { type FlagTable, flagsOf, formatBytes, type RunConfig, readText, UserError } from '@minicpm-finetune/run';
import type { Given, GivenValues } from '../../config/flags.js';
import { resolveGiven } from '../../config/resolve.js';
import { TRAIN_FLAGS } from '../../config/train-flags.js';
import type { Changes } from '../../train/estimate/fit.js';
import type { CliCommand, CommandIO } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';
import { shellWord } from '../shared/shell-word.js';
import { TRAIN_TEXT } from '../train/text.js';

const OWN = flagsOf({
  estimate: {
    world: {
      kind: 'integers',
      min: 1,
      default: [1, 2, 4, 8],
      help: { en: 'Numbers of devices to estimate for.', zh: '要估算的设备数。' },
    },
    images: {
      kind: 'integer',
      min: 0,
      default: 1,
      help: {
        en: 'Pictures of a record, each cut into as many slices as the settings allow.',
        zh: '每条记录的图片数，每张图片按设置允许的最多切片数切片。',
      },
    },
    fit: {
      kind: 'bytes',
      default: null,
      placeholder: 'bytes',
      help: {
        en: 'Find the cheapest settings that fit into this memory of a device, such as 24GiB; what was given stays.',
        zh: '找出能放进设备内存（例如 24GiB）的代价最小的设置；已给出的参数保持不变。',
      },
    },
    json: {
      kind: 'boolean',
      default: false,
      help: { en: 'Print one JSON object instead of a table.', zh: '打印一个 JSON 对象而不是表格。' },
    },
  } satisfies FlagTable,
});
/** An estimate starts no processes. */
const { launch: _, ...headingsOfTraining } = TRAIN_TEXT.headings;
const OWN_NAMES = new Set(OWN.map(({ name }) => name));
/** Flags that a training needs and an estimate does not. */
const NOT_NEEDED = { data_path: ['data.json'], output_dir: 'output' } as const;

export const estimateCommand: CliCommand = {
  text: {
    name: 'estimate',
    summary: { en: 'Estimate the memory of a training, without weights.', zh: '估算训练所需的内存，无需权重。' },
    description: {
      en:
        'Takes the flags of a training and says what it takes per device and per host, by category, each with its arithmetic. Needs ' +
        'config.json alone: --model_name_or_path may be that file; --data_path and --output_dir may be left out. One step is rehearsed ' +
        'with shapes and no numbers, on --device (auto: cuda), for records of model_max_length tokens.',
      zh:
        '接受训练的参数，按类别给出每个设备和每台主机需要的内存，并附上算式。只需要 config.json：--model_name_or_path 可以就是该文件；' +
        '可以不给 --data_path 和 --output_dir。以 model_max_length 个词元的记录在 --device（auto 表示 cuda）上只用形状演练一步，不做计算。',
    },
    headings: { estimate: { en: 'Flags of its own', zh: '自己的参数' }, ...headingsOfTraining },
    examples: example(
      'minicpm-finetune estimate --model_name_or_path openbmb/MiniCPM-V-2_6 --use_lora --bf16 --fit 24GiB',
    ),
  },
  flags: [...OWN, ...TRAIN_FLAGS.filter(({ name }) => name !== 'dry_run')],
  async run(given, io) {
    const value = <T>(name: string): T =>
      (given.get(name)?.value ?? OWN.find((flag) => flag.name === name)!.default) as T;
    const forTraining = new Map([...given].filter(([name]) => !OWN_NAMES.has(name)));
    for (const [name, standIn] of Object.entries(NOT_NEEDED))
      if (!forTraining.has(name)) forTraining.set(name, { value: standIn, source: { kind: 'flag' } });
    const { config, notices } = resolveGiven(forTraining);
    for (const notice of notices) io.stderr.write(`${io.say(`notice: ${notice}`)}\n`);
    const read = await readModel(config, io);
    const images = value<number>('images');
    const worlds = value<readonly number[]>('world');
    const json = value<boolean>('json');
    const [{ estimate }, { describeEstimates }, { largestShape }] = await Promise.all([
      import('../../train/estimate/estimate.js'),
      import('../../train/estimate/describe.js'),
      import('../../train/estimate/shape.js'),
    ]);
    const device = config.engine.device === 'auto' ? 'cuda' : config.engine.device;
    const room = value<number | null>('fit');
    if (room === null) {
      const estimates = estimate(config, read, largestShape(config, read, images), { device, worlds });
      io.stdout.write(
        `${json ? JSON.stringify({ device, estimates }) : describeEstimates(estimates, io.say).join('\n')}\n`,
      );
      return EXIT.ok;
    }
    const { fit, wordsOf: flagsOfChanges } = await import('../../train/estimate/fit.js');
    const found = [...worlds].map((world) => ({
      world,
      fitted: fit(config, read, room, {
        withChanges: (changes) => withChanges(forTraining, changes),
        given: new Set(given.keys()),
        shapeOf: (one) => largestShape(one, read, images),
        device,
        world,
      }),
    }));
    if (json) io.stdout.write(`${JSON.stringify({ device, room, found })}\n`);
    for (const { world, fitted } of json ? [] : found) {
      const words = fitted && wordsOf(given, fitted.changes);
      const line =
        fitted === null
          ? `x${world}: nothing that may be changed fits ${formatBytes(room)}. Take a smaller --model_max_length or --max_slice_nums, or give fewer flags.`
          : `x${world}: ${formatBytes(fitted.estimate.deviceBytes)} with ${flagsOfChanges(fitted.changes) || 'the settings as they are'}`;
      io.stdout.write(`${io.say(line)}\n`);
      if (words) io.stdout.write(`  minicpm-finetune train ${words.join(' ')}\n`);
    }
    return found.every(({ fitted }) => fitted !== null) ? EXIT.ok : EXIT.usage;
  },
};

/** The model's config.json: the file itself, of a folder, or of a model of the hub, whose weights are not fetched. */
async function readModel({ model }: RunConfig, io: CommandIO): Promise<ModelConfig> {
  const { parseConfig, readConfig } = await import('@minicpm-finetune/processor');
  const { model_name_or_path: named, cache_dir: cacheDir } = model;
  if (named.endsWith('.json') && existsSync(named) && statSync(named).isFile())
    return parseConfig(readText(named, 'config.json'), named);
  const [{ localModel, resolveModel }, { Progress }] = await Promise.all([
    import('../../hub/hub.js'),
    import('../../report/progress.js'),
  ]);
  const local = localModel(named, cacheDir);
  if (local !== null) return readConfig(local);
  const reporter = new Progress({ stream: io.stderr, say: io.say });
  try {
    const flags = { flag: '--model_name_or_path', adapterFlag: '--lora_weight_path' } as const;
    return readConfig(await resolveModel(named, { ...flags, cacheDir, weights: false, reporter }));
  } finally {
    reporter.close();
  }
}

function withChanges(given: GivenValues, changes: Changes): RunConfig | null {
  const all = new Map<string, Given>(given);
  for (const [name, value] of Object.entries(changes)) all.set(name, { value, source: { kind: 'flag' } });
  try {
    return resolveGiven(all).config;
  } catch (error) {
    if (error instanceof UserError) return null;
    throw error;
  }
}

/** The words of the command line of a training with changes. */
function wordsOf(given: GivenValues, changes: Changes): string[] {
  const own = [...given].filter(([name]) => !OWN_NAMES.has(name) && !(name in changes));
  const shown = [...own.map(([name, one]) => [name, one.value] as const), ...Object.entries(changes)];
  return shown.flatMap(([name, value]) => [
    `--${name}`,
    ...(Array.isArray(value) ? value.map(quoted) : [quoted(value)]),
  ]);
}

function quoted(value: unknown): string {
  return shellWord(typeof value === 'object' ? JSON.stringify(value) : String(value));
}
