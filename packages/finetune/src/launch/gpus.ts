/** The NVIDIA GPUs that processes started here would see. Found without libtorch. */
import { existsSync, readdirSync } from 'node:fs';

const DRIVER = '/proc/driver/nvidia/gpus';

/** Their names for CUDA_VISIBLE_DEVICES. */
export function visibleGpus(env: Readonly<Record<string, string | undefined>>): string[] {
  const chosen = env.CUDA_VISIBLE_DEVICES;
  if (chosen !== undefined) return chosen.split(',').filter((name) => name.trim() !== '' && name.trim() !== '-1');
  return existsSync(DRIVER) ? readdirSync(DRIVER).map((_, i) => String(i)) : [];
}
