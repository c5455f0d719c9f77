/** The NVIDIA GPUs that processes started here would see. Found without libtorch. */
import { existsSync, readdirSync } from 'node:fs';
import { expected } from '@minicpm-finetune/run';

const DRIVER = '/proc/driver/nvidia/gpus';

/** Their names for CUDA_VISIBLE_DEVICES. */
export function visibleGpus(env: Readonly<Record<string, string | undefined>>): string[] {
  const chosen = env.CUDA_VISIBLE_DEVICES;
  if (chosen !== undefined) return chosen.split(',').filter((name) => name.trim() !== '' && name.trim() !== '-1');
  return existsSync(DRIVER) ? readdirSync(DRIVER).map((_, i) => String(i)) : [];
}

/**
 * Leaves a process that torchrun or Slurm started the GPU of its place on this machine. Before libtorch looks for GPUs.
 *
 * @throws UserError for more processes than GPUs
 */
export function chooseGpu({ localRank, localSize }: { readonly localRank: number; readonly localSize: number }): void {
  const gpus = visibleGpus(process.env);
  if (gpus.length === 0 || (gpus.length === 1 && localSize === 1)) return;
  const gpu = gpus[localRank];
  if (gpu === undefined || localSize > gpus.length) {
    throw expected(`at most one process per GPU (${gpus.length})`, 'LOCAL_WORLD_SIZE', localSize, {
      cure: 'Start fewer processes on this machine, or give --device cpu.',
    });
  }
  process.env.CUDA_VISIBLE_DEVICES = gpu;
}
