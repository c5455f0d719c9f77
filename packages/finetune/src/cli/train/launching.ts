/** How `train` becomes one of several processes, or starts them. */
import { CONFIG_FLAGS, type Flag, flagsOf, type RunConfig } from '@minicpm-finetune/run';
import type { GivenValues } from '../../config/flags.js';
import { LAUNCH_FLAGS } from '../../config/launch-flags.js';
import { type LaunchPlan, placeFromEnvironment, type Standing } from '../../launch/place.js';
import type { Facts } from '../../parallel/hello.js';
import { VERSION } from '../../version.js';
import { type CommandIO, flagValue } from '../cli-command.js';

const FLAGS: readonly Flag[] = flagsOf({ launch: LAUNCH_FLAGS });

/** Flags that may differ from machine to machine: paths, and what does not touch the numbers. */
const OF_A_MACHINE: ReadonlySet<string> = new Set([
  'model_name_or_path',
  'cache_dir',
  'data_path',
  'eval_data_path',
  'output_dir',
  'run_name',
  'logging_dir',
  'lora_weight_path',
  'resume_from_checkpoint',
  'threads',
  'memory_budget',
  'cache_vision',
  'cache_vision_limit',
  'progress',
  'dataloader_num_workers',
  'dataloader_prefetch_factor',
]);

const valueIn = <T>(given: GivenValues, name: keyof typeof LAUNCH_FLAGS): T =>
  flagValue<T>(given, FLAGS.find((flag) => flag.name === name)!);

/** What this process is to the run. @throws UserError */
export function standingOf(given: GivenValues, env: CommandIO['env'], config: RunConfig): Standing {
  const flags = {
    nprocPerNode: valueIn<string | null>(given, 'nproc_per_node'),
    nnodes: valueIn<number>(given, 'nnodes'),
    nodeRank: valueIn<number | null>(given, 'node_rank'),
    masterAddr: valueIn<string | null>(given, 'master_addr'),
    masterPort: valueIn<number | null>(given, 'master_port'),
  };
  return placeFromEnvironment(env, flags, config.engine.device);
}

/** The number of processes of the run. */
export function sizeOf(standing: Standing): number {
  if (standing.kind === 'alone') return 1;
  return standing.kind === 'rank' ? standing.place.size : standing.plan.size;
}

/** What is said of flags that this process has no use for. */
export function idleNotices(standing: Standing): string[] {
  if (standing.kind !== 'alone' || standing.idle.length === 0) return [];
  const [first, second] = standing.idle;
  const why = 'one process meets no other.';
  return [second === undefined ? `${first} has no effect: ${why}` : `${first} and ${second} have no effect: ${why}`];
}

/** Starts the processes of this machine, with the words of this one. Returns the exit code. */
export async function startRanks(plan: LaunchPlan, given: GivenValues, io: CommandIO): Promise<number> {
  const { launch } = await import('../../launch/launcher.js');
  return await launch(plan, {
    command: [process.execPath, ...process.execArgv, ...process.argv.slice(1)],
    env: io.env,
    stderr: io.stderr,
    say: io.say,
    stopTimeout: 1000 * valueIn<number>(given, 'stop_timeout'),
  });
}

/** What has to be the same in all processes. */
export async function factsOf(config: RunConfig): Promise<Facts> {
  const [{ about }, { deviceNamed }] = await Promise.all([
    import('@minicpm-finetune/torch'),
    import('../../engine/machine.js'),
  ]);
  const { version, cpuCapability } = about();
  const groups = config as unknown as Readonly<Record<string, Readonly<Record<string, unknown>>>>;
  const flags = flagsOf(CONFIG_FLAGS)
    .filter(({ name }) => !OF_A_MACHINE.has(name))
    .map(({ name, group }) => [`--${name}`, groups[group]![name]]);
  const device = deviceNamed(config.engine.device);
  return {
    equal: {
      'the version of minicpm-finetune': VERSION,
      'the version of libtorch': version,
      device,
      ...Object.fromEntries(flags),
    },
    alike: { 'the instruction set of the processor': cpuCapability },
  };
}
