/** `minicpm-finetune train`: resolves the configuration, trains. */
import { resolve } from 'node:path';
import { flagsOf, type RunConfig, type RunEvent } from '@minicpm-finetune/run';
import { stringify } from 'yaml';
import { LAUNCH_FLAGS } from '../../config/launch-flags.js';
import { type ResolvedConfig, resolveGiven } from '../../config/resolve.js';
import { TRAIN_FLAGS } from '../../config/train-flags.js';
import { chooseGpu, requireOwnGpu } from '../../launch/gpus.js';
import type { Place, Ranks } from '../../parallel/ranks.js';
import type { Reporter } from '../../report/reporter.js';
import type { CliCommand, CommandIO } from '../cli-command.js';
import { EXIT, printedError } from '../exit.js';
import { factsOf, idleNotices, sizeOf, standingOf, startRanks } from './launching.js';
import { TRAIN_TEXT } from './text.js';

/** What timers and system calls take at most. */
const MOST_MILLISECONDS = 2 ** 31 - 1;

export const trainCommand: CliCommand = {
  text: TRAIN_TEXT,
  flags: [...TRAIN_FLAGS, ...flagsOf({ launch: LAUNCH_FLAGS })],
  async run(given, io) {
    if (given.get('dry_run')?.value === 'json') {
      const { dryRunJson } = await import('./dry-run-json.js');
      return await dryRunJson(given, io);
    }
    const standing = standingOf(given, io.env, resolveGiven(given).config);
    const found = resolveGiven(given, { worldSize: sizeOf(standing) });
    const resolved = { ...found, notices: [...found.notices, ...idleNotices(standing)] };
    const dry = given.get('dry_run')?.value ?? false;
    if (dry !== false) {
      const rank = standing.kind === 'rank' ? standing.place.rank : 0;
      return await printDryRun(resolved, { rank, worldSize: sizeOf(standing), measures: dry === 'measure' }, io);
    }
    if (standing.kind === 'launcher') return await startRanks(standing.plan, given, io);
    if (standing.kind === 'rank') return await trainAsRank(standing.place, resolved, io);
    return await runTraining(resolved, io);
  },
};

/** Trains as one of the run's processes. */
async function trainAsRank(place: Place, resolved: ResolvedConfig, io: CommandIO): Promise<number> {
  if (place.launcher === undefined && resolved.config.engine.device !== 'cpu') chooseGpu(place);
  const [{ asMember }, { SILENT }, { deviceNamed }] = await Promise.all([
    import('../../launch/member.js'),
    import('../../report/reporter.js'),
    import('../../engine/machine.js'),
  ]);
  const device = deviceNamed(resolved.config.engine.device);
  if (device === 'cuda') requireOwnGpu(place);
  const options = {
    device,
    timeout: Math.min(1000 * resolved.config.engine.ddp_timeout, MOST_MILLISECONDS),
    facts: await factsOf(resolved.config),
    notice: (line: string) => void io.stderr.write(`${io.say(line)}\n`),
    say: io.say,
    printed: (error: unknown) => printedError(error, io.say),
  };
  return await asMember(place, options, async ({ ranks, folder }) => {
    const shown = ranks.rank === 0 ? {} : { reporter: SILENT };
    const started = ranks.rank === 0 ? () => folder(resolve(resolved.config.output.output_dir)) : () => {};
    return await runTraining(resolved, io, { ...shown, ranks, started });
  });
}

/** Trains with what the command line adds: the terminal, and signals. */
async function runTraining(
  { config, notices, derived }: ResolvedConfig,
  io: CommandIO,
  rank: { readonly ranks?: Ranks; readonly reporter?: Reporter; readonly started?: () => void } = {},
): Promise<number> {
  const [{ train }, { Progress }, { ProcessSignals }] = await Promise.all([
    import('../../train/train.js'),
    import('../../report/progress.js'),
    import('../shared/signals.js'),
  ]);
  const progress = new Progress({ mode: config.logging.progress, stream: io.stderr, output: io.stdout, say: io.say });
  const { reporter = progress, started = () => {}, ranks } = rank;
  const signals = new ProcessSignals(io.say);
  const onEvent = ({ event }: RunEvent): void => {
    if (event !== 'run_start') return;
    signals.listen(); // before that there is nothing to finish
    started();
  };
  for (const notice of notices) reporter.notice(notice);
  const saveRequested = (): boolean => signals.takeSaveRequest();
  try {
    const { stopped } = await train(config, {
      notices,
      derived,
      reporter,
      onEvent,
      signal: signals.signal,
      saveRequested,
      ...(ranks && { ranks }),
    });
    return stopped === 'sigint' ? EXIT.interrupted : EXIT.ok;
  } finally {
    signals.close();
    progress.close();
  }
}

/** Prints a recipe that repeats the run on standard output; notices, arithmetic and what was found on standard error. */
async function printDryRun(
  { config, notices, derived }: ResolvedConfig,
  { rank, worldSize, measures }: { readonly rank: number; readonly worldSize: number; readonly measures: boolean },
  io: CommandIO,
): Promise<number> {
  const [{ dryRun }, { Progress }] = await Promise.all([
    import('../../train/dry-run.js'),
    import('../../report/progress.js'),
  ]);
  const reporter = new Progress({ stream: io.stderr, say: io.say });
  try {
    for (const notice of notices) reporter.notice(notice);
    const found = await dryRun(config, { worldSize, reporter });
    for (const line of [...derived, ...found]) reporter.print(line);
    if (measures) for (const line of await measuredLines(config, rank, worldSize)) reporter.print(line);
    io.stdout.write(stringify(config));
    return EXIT.ok;
  } finally {
    reporter.close();
  }
}

/** Two steps of one process of the run on noise. The others need not be there. */
async function measuredLines({ model, ...others }: RunConfig, rank: number, size: number): Promise<string[]> {
  const { model_name_or_path: named, cache_dir: cacheDir } = model;
  const [{ resolveModel }, { measureMemory, describeMeasured }, { SILENT }] = await Promise.all([
    import('../../hub/hub.js'),
    import('../../train/estimate/measure.js'),
    import('../../report/reporter.js'),
  ]);
  const flags = { flag: '--model_name_or_path', adapterFlag: '--lora_weight_path' } as const;
  const folder = await resolveModel(named, { ...flags, cacheDir, reporter: SILENT });
  return describeMeasured(measureMemory({ model, ...others }, folder, SILENT, { rank, size }));
}
