/** `minicpm-finetune train`: resolves the configuration, trains. */
import { resolve } from 'node:path';
import { flagsOf, type RunConfig, type RunEvent } from '@minicpm-finetune/run';
import { stringify } from 'yaml';
import type { GivenValues } from '../../config/flags.js';
import { LAUNCH_FLAGS } from '../../config/launch-flags.js';
import { type ResolvedConfig, resolveGiven } from '../../config/resolve.js';
import { TRAIN_FLAGS } from '../../config/train-flags.js';
import { chooseGpu } from '../../launch/gpus.js';
import type { Place, Ranks } from '../../parallel/ranks.js';
import type { Reporter } from '../../report/reporter.js';
import type { CliCommand, CommandIO } from '../cli-command.js';
import { EXIT, printedError } from '../exit.js';
import { factsOf, sizeOf, standingOf, startRanks } from './launching.js';
import { TRAIN_TEXT } from './text.js';

/** What timers and system calls take at most. */
const MOST_MILLISECONDS = 2 ** 31 - 1;

export const trainCommand: CliCommand = {
  text: TRAIN_TEXT,
  flags: [...TRAIN_FLAGS, ...flagsOf({ launch: LAUNCH_FLAGS })],
  async run(given, io) {
    const standing = standingOf(given, io.env, resolveGiven(given).config);
    const resolved = resolveGiven(given, { worldSize: sizeOf(standing) });
    if (given.get('dry_run')?.value === true) {
      const { checkOutput } = await import('../../train/output-folder.js');
      checkOutput(resolved.config, inputsOf(given));
      return await printDryRun(resolved, io);
    }
    if (standing.kind === 'launcher') return await startRanks(standing.plan, given, io);
    if (standing.kind === 'rank') return await trainAsRank(standing.place, resolved, inputsOf(given), io);
    return await runTraining(resolved, inputsOf(given), io);
  },
};

/** Trains as one of the run's processes. */
async function trainAsRank(
  place: Place,
  resolved: ResolvedConfig,
  inputs: readonly string[],
  io: CommandIO,
): Promise<number> {
  if (place.launcher === undefined && resolved.config.engine.device !== 'cpu') chooseGpu(place);
  const [{ asMember }, { SILENT }] = await Promise.all([
    import('../../launch/member.js'),
    import('../../report/reporter.js'),
  ]);
  const options = {
    timeout: Math.min(1000 * resolved.config.engine.ddp_timeout, MOST_MILLISECONDS),
    facts: await factsOf(resolved.config),
    notice: (line: string) => void io.stderr.write(`${io.say(line)}\n`),
    printed: (error: unknown) => printedError(error, io.say),
  };
  return await asMember(place, options, async ({ ranks, folder }) => {
    const shown = ranks.rank === 0 ? {} : { reporter: SILENT };
    const started = ranks.rank === 0 ? () => folder(resolve(resolved.config.output.output_dir)) : () => {};
    return await runTraining(resolved, inputs, io, { ...shown, ranks, started });
  });
}

/** Trains with what the command line adds: the terminal, and signals. */
async function runTraining(
  { config, notices, derived }: ResolvedConfig,
  inputs: readonly string[],
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
      inputs,
      saveRequested,
      ...(ranks && { ranks }),
    });
    return stopped === 'sigint' ? EXIT.interrupted : EXIT.ok;
  } finally {
    signals.close();
    progress.close();
  }
}

/** Files that the command line names beside those of the configuration. */
function inputsOf(given: GivenValues): string[] {
  return ['recipe', 'config', 'deepspeed'].flatMap((name) => {
    const value = given.get(name)?.value;
    return typeof value === 'string' ? [value] : [];
  });
}

/** Prints a recipe that repeats the run on standard output, and notices and arithmetic on standard error. */
async function printDryRun(resolved: ResolvedConfig, io: CommandIO): Promise<number> {
  const { checkNamedFiles } = await import('../../train/named-files.js');
  const found = await checkNamedFiles(resolved.config);
  const planned = await planLines(resolved.config);
  for (const notice of [...resolved.notices, ...found]) io.stderr.write(`${io.say(`notice: ${notice}`)}\n`);
  for (const line of [...resolved.derived, ...planned]) io.stderr.write(`${io.say(line)}\n`);
  io.stdout.write(stringify(resolved.config));
  return EXIT.ok;
}

/** What the run would do with its model, which is looked at without its weights. */
async function planLines(config: RunConfig): Promise<string[]> {
  const { model_name_or_path: named, cache_dir: cacheDir } = config.model;
  const { localModel } = await import('../../hub/hub.js');
  const folder = localModel(named, cacheDir);
  if (folder === null) return [`notice: layers, patterns and memory are not checked: ${named} is not on this machine.`];
  const { describePlan } = await import('../../train/plan.js');
  return describePlan(config, folder);
}
