/**
 * What a process is to a run. Alone, one of its ranks, or the launcher of those on this machine. The environment says so (torchrun's
 * variables, Slurm's), or the flags.
 */
import { expected, UserError } from '@minicpm-finetune/run';
import type { Place } from '../parallel/ranks.js';
import { exceedsGpus, tooManyFor, visibleGpus } from './gpus.js';
import { slurmPlace } from './slurm.js';

type Environment = Readonly<Record<string, string | undefined>>;

/** The flags of launching, null where they were not given. */
export interface LaunchFlags {
  readonly nprocPerNode: string | null;
  readonly nnodes: number;
  readonly nodeRank: number | null;
  readonly masterAddr: string | null;
  readonly masterPort: number | null;
}

/** The processes that a launcher starts. */
export interface LaunchPlan {
  /** Of the first one. */
  readonly firstRank: number;
  readonly localSize: number;
  readonly size: number;
  readonly masterAddr: string;
  /** 0: a free one. */
  readonly masterPort: number;
  /** GPUs of the processes, one for each unless they are shared; empty: none is chosen for them. */
  readonly gpus: readonly string[];
}

export type Standing =
  /** `idle`: flags that were given and that a process alone has no use for. */
  | { readonly kind: 'alone'; readonly idle: readonly string[] }
  | { readonly kind: 'rank'; readonly place: Place }
  | { readonly kind: 'launcher'; readonly plan: LaunchPlan };

/** What a launcher sets in the environment of its processes: it holds the other end of the socket LAUNCHER_SOCKET. */
export const LAUNCHED = 'MINICPM_FINETUNE_LAUNCHED';
/** File descriptors of a process that a launcher started: the listening socket of rank 0, and the socket to the launcher. */
const LISTENING_SOCKET = 3;
export const LAUNCHER_SOCKET = 4;

const PORT = 29_500;
const ALONE: Standing = { kind: 'alone', idle: [] };
const LOOPBACK = /^(localhost|127\.[\d.]+|::1)$/;

/**
 * @param device of --device
 * @throws UserError for variables or flags that are incomplete or contradict one another, and for more processes than GPUs
 */
export function placeFromEnvironment(env: Environment, flags: LaunchFlags, device: string): Standing {
  const given = Object.entries({
    nproc_per_node: flags.nprocPerNode,
    node_rank: flags.nodeRank,
    master_addr: flags.masterAddr,
    master_port: flags.masterPort,
    nnodes: flags.nnodes === 1 ? null : flags.nnodes,
  }).find(([, value]) => value !== null)?.[0];
  const place = torchrunPlace(env);
  if (place !== null) {
    if (given !== undefined && env[LAUNCHED] === undefined) throw startedTwice(`--${given}`);
    return place.size === 1 ? ALONE : { kind: 'rank', place };
  }
  if (given === undefined) {
    const slurm = slurmPlace(env);
    return slurm === null ? ALONE : { kind: 'rank', place: slurm };
  }
  const plan = planOf(flags, device, env);
  if (plan.size > 1) return { kind: 'launcher', plan };
  const meeting = { '--master_addr': flags.masterAddr, '--master_port': flags.masterPort };
  return { kind: 'alone', idle: Object.entries(meeting).flatMap(([flag, value]) => (value === null ? [] : [flag])) };
}

function startedTwice(flag: string): UserError {
  return new UserError(`Expected one way to start the processes but received both RANK and WORLD_SIZE and ${flag}.`, {
    flag,
    cure: 'Leave the flag out under torchrun, or start the command without torchrun.',
  });
}

function torchrunPlace(env: Environment): Place | null {
  if (env.WORLD_SIZE === undefined && env.RANK === undefined) return null;
  const size = integerOf(env, 'WORLD_SIZE', 1);
  if (size === 1 && env.RANK === undefined) return null;
  const rank = integerOf(env, 'RANK', 0);
  if (rank >= size) {
    throw expected(`a rank below WORLD_SIZE=${size}`, 'RANK', rank, { cure: 'Ranks count from 0.' });
  }
  const alone = { rank, size, localRank: 0, localSize: 1, masterAddr: '127.0.0.1', masterPort: PORT };
  if (size === 1) return alone;
  const localRank = integerOf(env, 'LOCAL_RANK', 0);
  const localSize = env.LOCAL_WORLD_SIZE === undefined ? size : integerOf(env, 'LOCAL_WORLD_SIZE', 1);
  const masterAddr = env.MASTER_ADDR;
  if (masterAddr === undefined || masterAddr === '') throw notSet('MASTER_ADDR');
  if (localSize < size) refuseLoopback(masterAddr, 'MASTER_ADDR', 'WORLD_SIZE has processes of other machines');
  const attempt = env.TORCHELASTIC_RESTART_COUNT ?? '0';
  return {
    rank,
    size,
    localRank,
    localSize,
    masterAddr,
    masterPort: integerOf(env, 'MASTER_PORT', 1),
    ...(env[LAUNCHED] !== undefined && {
      launcher: LAUNCHER_SOCKET,
      ...(rank === 0 && { listening: LISTENING_SOCKET }),
    }),
    ...(env.TORCHELASTIC_USE_AGENT_STORE === 'True' && { served: true, prefix: `minicpm-finetune/${attempt}/` }),
  };
}

function integerOf(env: Environment, name: string, min: number): number {
  const text = env[name];
  if (text === undefined || text === '') throw notSet(name);
  if (/^\d+$/.test(text) && Number(text) >= min) return Number(text);
  throw expected(`an integer of at least ${min}`, name, text, {
    cure: 'torchrun and the launcher of this command set it; unset it to train in one process.',
  });
}

function notSet(name: string): UserError {
  return new UserError(`Expected the variable ${name} for one of several processes but it is not set.`, {
    cure: 'Start the processes with torchrun or --nproc_per_node, or unset RANK and WORLD_SIZE to train in one process.',
  });
}

function refuseLoopback(address: string, name: string, why: string): void {
  if (!LOOPBACK.test(address)) return;
  throw new UserError(`Expected an address that other machines reach for ${name} but received ${address}: ${why}.`, {
    ...(name.startsWith('--') && { flag: name }),
    cure: 'Give the address of machine 0 in the network that the machines share, such as 10.0.0.1.',
  });
}

function planOf(flags: LaunchFlags, device: string, env: Environment): LaunchPlan {
  const { nnodes, nodeRank, masterAddr, masterPort } = flags;
  const gpus = device === 'cpu' ? [] : visibleGpus(env);
  const localSize = processesOf(flags.nprocPerNode ?? '1', gpus);
  if (nodeRank !== null && nodeRank >= nnodes) {
    throw expected(`a number below --nnodes ${nnodes}`, '--node_rank', nodeRank, {
      flag: '--node_rank',
      cure: 'Machines count from 0.',
    });
  }
  if (nnodes > 1) {
    if (nodeRank === null) throw neededFor('--node_rank', 'the number of this machine, from 0');
    if (masterAddr === null) throw neededFor('--master_addr', 'the address of machine 0');
    refuseLoopback(masterAddr, '--master_addr', `--nnodes is ${nnodes}`);
  }
  if (exceedsGpus(gpus, localSize, env)) {
    const cure = `Give --nproc_per_node ${gpus.length}, or --device cpu.`;
    throw tooManyFor(gpus.length, localSize, '--nproc_per_node', cure);
  }
  return {
    firstRank: (nodeRank ?? 0) * localSize,
    localSize,
    size: nnodes * localSize,
    masterAddr: masterAddr ?? '127.0.0.1',
    masterPort: masterPort ?? (nnodes > 1 ? PORT : 0),
    gpus: gpus.slice(0, localSize),
  };
}

function processesOf(text: string, gpus: readonly string[]): number {
  if (text === 'auto') return Math.max(1, gpus.length);
  if (/^[1-9]\d*$/.test(text)) return Number(text);
  throw expected('an integer of at least 1, or auto', '--nproc_per_node', text, {
    flag: '--nproc_per_node',
    cure: 'Give --nproc_per_node 2.',
  });
}

function neededFor(flag: string, what: string): UserError {
  return new UserError(`Expected ${flag} with --nnodes above 1 but it is not given.`, {
    flag,
    cure: `Give ${what}.`,
  });
}
