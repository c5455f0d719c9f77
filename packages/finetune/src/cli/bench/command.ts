/** `minicpm-finetune bench`: time and memory of training steps. Takes the flags of a training. */
import { type FlagTable, flagsOf, type RunConfig } from '@minicpm-finetune/run';
import { resolveGiven } from '../../config/resolve.js';
import { TRAIN_FLAGS } from '../../config/train-flags.js';
import type { CliCommand, CommandIO } from '../cli-command.js';
import { example } from '../command.js';
import { EXIT } from '../exit.js';
import { TRAIN_TEXT } from '../train/text.js';
import type { Measurement } from './meter.js';

const OWN = flagsOf({
  bench: {
    bench_steps: {
      kind: 'integer',
      min: 1,
      default: 6,
      help: { en: 'Steps that are measured, after two that are not.', zh: '测量的步数；之前另有两步不计。' },
    },
    json: {
      kind: 'boolean',
      default: false,
      help: { en: 'Print one JSON object instead of a table.', zh: '打印一个 JSON 对象而不是表格。' },
    },
  } satisfies FlagTable,
});
const OWN_NAMES = new Set(OWN.map(({ name }) => name));

/** It runs in one process. */
const { launch: _, ...WITHOUT_LAUNCH } = TRAIN_TEXT.headings;

export const benchCommand: CliCommand = {
  text: {
    name: 'bench',
    summary: { en: 'Measure the time and the memory of training steps.', zh: '测量训练的时间和内存用在哪里。' },
    description: {
      en:
        'Takes the flags of a training and runs some of its steps: data, vision, language model, loss, optimizer; the speed of the ' +
        "language model's blocks against plain matrix products; memory. Nothing is saved; --output_dir may be left out.",
      zh:
        '接受训练的参数并运行其中几步：数据、视觉、语言模型、损失、优化器；语言模型各块的速度与纯矩阵乘法相比；内存。' +
        '不保存任何内容；可以不给 --output_dir。',
    },
    headings: { bench: { en: 'Flags of its own', zh: '自己的参数' }, ...WITHOUT_LAUNCH },
    examples: example('minicpm-finetune bench --model_name_or_path DIR --data_path train.json --use_lora --bf16'),
  },
  flags: [...OWN, ...TRAIN_FLAGS.filter(({ name }) => name !== 'dry_run')],
  async run(given, io) {
    const value = (name: string): unknown => given.get(name)?.value ?? OWN.find((flag) => flag.name === name)!.default;
    const forTraining = new Map([...given].filter(([name]) => !OWN_NAMES.has(name)));
    if (!forTraining.has('output_dir')) forTraining.set('output_dir', { value: '.', source: { kind: 'flag' } });
    const { config, notices } = resolveGiven(forTraining);
    for (const notice of notices) io.stderr.write(`${io.say(`notice: ${notice}`)}\n`);
    const figures = await measured(config, value('bench_steps') as number, io);
    if (figures === null) {
      io.stderr.write(`${io.say('notice: stopped before a step was counted: there are no figures.')}\n`);
      return EXIT.interrupted;
    }
    const { describeFigures } = await import('./measure.js');
    const asObject = {
      ...figures,
      seconds: Object.fromEntries(figures.seconds),
      memory: Object.fromEntries(figures.memory),
    };
    io.stdout.write(`${value('json') === true ? JSON.stringify(asObject) : describeFigures(figures, io.say)}\n`);
    return EXIT.ok;
  },
};

async function measured(config: RunConfig, steps: number, io: CommandIO): Promise<Measurement | null> {
  const [{ measureTraining }, { Progress }, { ProcessSignals }] = await Promise.all([
    import('./measure.js'),
    import('../../report/progress.js'),
    import('../shared/signals.js'),
  ]);
  const reporter = new Progress({ mode: config.logging.progress, stream: io.stderr, output: io.stdout, say: io.say });
  const signals = new ProcessSignals(io.say);
  signals.listen();
  try {
    return await measureTraining(config, steps, { reporter, signal: signals.signal });
  } finally {
    signals.close();
    reporter.close();
  }
}
