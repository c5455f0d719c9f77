/** `minicpm-finetune train`: resolves the configuration, trains. */
import { type RunEvent, UserError } from '@minicpm-finetune/run';
import { stringify } from 'yaml';
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
    if (given.get('dry_run')?.value === true) return await printDryRun(resolved, io);
    return await runTraining(resolved, io);
  },
};

/** Trains with what the command line adds: the terminal, and signals. */
async function runTraining({ config, notices, derived }: ResolvedConfig, io: CommandIO): Promise<number> {
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
      saveRequested,
    });
    return stopped === 'sigint' ? EXIT.interrupted : EXIT.ok;
  } finally {
    signals.close();
    reporter.close();
  }
}

/** Prints a recipe that repeats the run on standard output; notices, arithmetic and what was found on standard error. */
async function printDryRun({ config, notices, derived }: ResolvedConfig, io: CommandIO): Promise<number> {
  const [{ dryRun }, { Progress }] = await Promise.all([
    import('../../train/dry-run.js'),
    import('../../report/progress.js'),
  ]);
  const reporter = new Progress({ stream: io.stderr, say: io.say });
  try {
    for (const notice of notices) reporter.notice(notice);
    const found = await dryRun(config, reporter);
    for (const line of [...derived, ...found]) reporter.print(line);
    io.stdout.write(stringify(config));
    return EXIT.ok;
  } finally {
    reporter.close();
  }
}

/** Several copies would train the same thing into the same folder. */
function refuseSeveralProcesses(env: CommandIO['env']): void {
  if (env.WORLD_SIZE === undefined || env.WORLD_SIZE === '1') return;
  throw new UserError(`Expected one process but received WORLD_SIZE=${env.WORLD_SIZE}.`, {
    cure: 'Start the command without torchrun, or with --nproc_per_node 1 --nnodes 1.',
  });
}
