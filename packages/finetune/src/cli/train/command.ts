/** `minicpm-finetune train`: resolves the configuration, trains. */
import { type RunConfig, type RunEvent, UserError } from '@minicpm-finetune/run';
import { stringify } from 'yaml';
import type { GivenValues } from '../../config/flags.js';
import { type ResolvedConfig, resolveGiven } from '../../config/resolve.js';
import { TRAIN_FLAGS } from '../../config/train-flags.js';
import type { CliCommand, CommandIO } from '../cli-command.js';
import { EXIT } from '../exit.js';
import { TRAIN_TEXT } from './text.js';

export const trainCommand: CliCommand = {
  text: TRAIN_TEXT,
  flags: TRAIN_FLAGS,
  async run(given, io) {
    refuseSeveralProcesses(io.env);
    const resolved = resolveGiven(given);
    const dry = given.get('dry_run')?.value ?? false;
    if (dry !== false) {
      const { checkOutput } = await import('../../train/output-folder.js');
      checkOutput(resolved.config, inputsOf(given));
      return await printDryRun(resolved, io, dry === 'measure');
    }
    return await runTraining(resolved, inputsOf(given), io);
  },
};

/** Trains with what the command line adds: the terminal, and signals. */
async function runTraining(
  { config, notices, derived }: ResolvedConfig,
  inputs: readonly string[],
  io: CommandIO,
): Promise<number> {
  const [{ train }, { Progress }, { ProcessSignals }] = await Promise.all([
    import('../../train/train.js'),
    import('../../report/progress.js'),
    import('../shared/signals.js'),
  ]);
  const reporter = new Progress({ mode: config.logging.progress, stream: io.stderr, output: io.stdout, say: io.say });
  const signals = new ProcessSignals(io.say);
  const onEvent = ({ event }: RunEvent): void => {
    if (event === 'run_start') signals.listen(); // before that there is nothing to finish
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
    });
    return stopped === 'sigint' ? EXIT.interrupted : EXIT.ok;
  } finally {
    signals.close();
    reporter.close();
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
async function printDryRun(resolved: ResolvedConfig, io: CommandIO, measures: boolean): Promise<number> {
  const { checkNamedFiles } = await import('../../train/named-files.js');
  const found = await checkNamedFiles(resolved.config);
  const planned = await planLines(resolved.config);
  for (const notice of [...resolved.notices, ...found]) io.stderr.write(`${io.say(`notice: ${notice}`)}\n`);
  for (const line of [...resolved.derived, ...planned]) io.stderr.write(`${io.say(line)}\n`);
  if (measures) for (const line of await measuredLines(resolved.config)) io.stderr.write(`${io.say(line)}\n`);
  io.stdout.write(stringify(resolved.config));
  return EXIT.ok;
}

/** What the run would do with its model, which is looked at without its weights. */
async function planLines(config: RunConfig): Promise<string[]> {
  const { model_name_or_path: named, cache_dir: cacheDir } = config.model;
  const { localModel } = await import('../../hub/hub.js');
  const folder = localModel(named, cacheDir);
  if (folder === null) return [`notice: layers, patterns and memory are not checked: ${named} is not on this machine.`];
  const [{ describePlan }, { describeMemory }] = await Promise.all([
    import('../../train/plan.js'),
    import('../../train/estimate/check.js'),
  ]);
  return [...describePlan(config, folder), ...describeMemory(config, folder)];
}

/** Two steps of the run on noise. */
async function measuredLines({ model, ...others }: RunConfig): Promise<string[]> {
  const { model_name_or_path: named, cache_dir: cacheDir } = model;
  const [{ resolveModel }, { measureMemory, describeMeasured }, { SILENT }] = await Promise.all([
    import('../../hub/hub.js'),
    import('../../train/estimate/measure.js'),
    import('../../report/reporter.js'),
  ]);
  const flags = { flag: '--model_name_or_path', adapterFlag: '--lora_weight_path' } as const;
  const folder = await resolveModel(named, { ...flags, cacheDir, reporter: SILENT });
  return describeMeasured(measureMemory({ model, ...others }, folder, SILENT));
}

/** Several copies would train the same thing into the same folder. */
function refuseSeveralProcesses(env: CommandIO['env']): void {
  if (env.WORLD_SIZE === undefined || env.WORLD_SIZE === '1') return;
  throw new UserError(`Expected one process but received WORLD_SIZE=${env.WORLD_SIZE}.`, {
    cure: 'Start the command without torchrun, or with --nproc_per_node 1 --nnodes 1.',
  });
}
