/** The place of a process that Slurm's `srun` started. */
import { UserError } from '@minicpm-finetune/run';
import type { Place } from '../parallel/ranks.js';

type Environment = Readonly<Record<string, string | undefined>>;

const FIRST_PORT = 10_000;
/** Ports below those that systems give to outgoing connections. */
const PORTS = 20_000;

/** null: srun did not start it, or alone. @throws UserError for variables that are incomplete */
export function slurmPlace(env: Environment): Place | null {
  const size = Number(env.SLURM_STEP_NUM_TASKS ?? env.SLURM_NTASKS ?? 1);
  if (env.SLURM_PROCID === undefined || size === 1) return null;
  const nodes = env.SLURM_STEP_NODELIST ?? env.SLURM_NODELIST ?? env.SLURM_JOB_NODELIST;
  const given = { SLURM_LOCALID: env.SLURM_LOCALID, SLURM_NODELIST: nodes, SLURM_JOB_ID: env.SLURM_JOB_ID };
  const missing = Object.entries(given).find(([, value]) => value === undefined)?.[0];
  if (missing !== undefined) {
    throw new UserError(`Expected ${missing} beside SLURM_PROCID but it is not set.`, {
      cure: 'Start the command with srun, or give --nproc_per_node.',
    });
  }
  const perNode = tasksPerNode(env.SLURM_STEP_TASKS_PER_NODE ?? env.SLURM_TASKS_PER_NODE ?? '1');
  return {
    rank: Number(env.SLURM_PROCID),
    size,
    localRank: Number(env.SLURM_LOCALID),
    localSize: perNode[Number(env.SLURM_NODEID ?? 0)] ?? 1,
    masterAddr: firstNode(nodes!),
    masterPort: FIRST_PORT + (Number(env.SLURM_JOB_ID) % PORTS),
  };
}

/** The first of `node[03-05,9],other`: `node03`. */
export function firstNode(list: string): string {
  const [, before, inside, after] = /^([^[,]*)(?:\[([^\]]*)\]([^,]*))?/.exec(list)!;
  return `${before}${inside?.split(/[-,]/)[0] ?? ''}${after ?? ''}`;
}

/** `2(x3),1` is 2, 2, 2, 1. */
export function tasksPerNode(text: string): number[] {
  return text.split(',').flatMap((part) => {
    const [, count, times = '1'] = /^(\d+)(?:\(x(\d+)\))?$/.exec(part) ?? [];
    return count === undefined ? [] : Array<number>(Number(times)).fill(Number(count));
  });
}
