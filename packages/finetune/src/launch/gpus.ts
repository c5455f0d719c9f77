/** The NVIDIA GPUs that processes started here would see. One for each process; found without libtorch. */
import { existsSync, readdirSync } from 'node:fs';
import { expected, UserError } from '@minicpm-finetune/run';

type Environment = Readonly<Record<string, string | undefined>>;

const DRIVER = '/proc/driver/nvidia/gpus';
const DEVICE = /^nvidia\d+$/;

/**
 * When it is set, the processes of a machine may be more than its GPUs, which they take in turn: for tests on a machine with one. NCCL refuses
 * that of processes on one host, so each gets a host name of its own for NCCL, and they send over sockets.
 */
export const SHARED_GPUS = 'MINICPM_FINETUNE_SHARED_GPUS';

/** Their names for CUDA_VISIBLE_DEVICES. */
export function visibleGpus(env: Environment): string[] {
  const chosen = env.CUDA_VISIBLE_DEVICES;
  if (chosen !== undefined) return chosen.split(',').filter((name) => name.trim() !== '' && name.trim() !== '-1');
  const found = existsSync(DRIVER) ? readdirSync(DRIVER) : readdirSync('/dev').filter((name) => DEVICE.test(name));
  return found.map((_, i) => String(i));
}

/** What is told to someone who wants more processes than there are GPUs. */
export function tooManyFor(gpus: number, processes: number, flag: string, cure: string): UserError {
  const where = flag.startsWith('--') ? { flag } : {};
  return expected(`at most one process per GPU (${gpus})`, flag, processes, { ...where, cure });
}

/** Whether so many processes have no GPU each. */
export function exceedsGpus(gpus: readonly string[], processes: number, env: Environment): boolean {
  return gpus.length > 0 && processes > gpus.length && !env[SHARED_GPUS];
}

/** The environment of a process that sees the GPU of its place on this machine alone. */
export function gpuEnvironment(gpus: readonly string[], localRank: number, env: Environment): Record<string, string> {
  if (gpus.length === 0) return {};
  return {
    CUDA_VISIBLE_DEVICES: gpus[localRank % gpus.length]!,
    ...(env[SHARED_GPUS] && { NCCL_HOSTID: `process-${localRank}`, NCCL_P2P_DISABLE: '1', NCCL_SHM_DISABLE: '1' }),
  };
}

/**
 * Leaves a process that torchrun or Slurm started the GPU of its place on this machine. Before libtorch looks for GPUs.
 *
 * @throws UserError for more processes than GPUs
 */
export function chooseGpu({ localRank, localSize }: { readonly localRank: number; readonly localSize: number }): void {
  const gpus = visibleGpus(process.env);
  const bySlurm = process.env.SLURM_GPUS_PER_TASK === '1'; // each process sees one of its own
  if (gpus.length === 1 && (localSize === 1 || bySlurm)) return;
  if (exceedsGpus(gpus, localSize, process.env)) {
    const cure = 'Start fewer processes on this machine, or give --device cpu.';
    throw tooManyFor(gpus.length, localSize, 'LOCAL_WORLD_SIZE', cure);
  }
  Object.assign(process.env, gpuEnvironment(gpus, localRank, process.env));
}

/** For a process that computes on a GPU. @throws UserError where it may be another process's as well */
export function requireOwnGpu({ localSize }: { readonly localSize: number }): void {
  const gpus = visibleGpus(process.env);
  if (localSize === 1 || gpus.length === 1) return;
  throw new UserError(`Expected to know the GPUs of this machine, for ${localSize} processes, but none is listed.`, {
    cure: 'Set CUDA_VISIBLE_DEVICES to their numbers, such as 0,1, or give --device cpu.',
  });
}
