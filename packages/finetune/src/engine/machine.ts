/** The machine under a command that uses a model: device, threads, allocator. Not here: what is done with them. */
import { UserError } from '@minicpm-finetune/run';
import { about, setThreads, tuneAllocator } from '@minicpm-finetune/torch';

export type DeviceName = 'cpu' | 'cuda' | 'mps';

export interface EngineOptions {
  readonly device: 'auto' | DeviceName;
  /** null: as libtorch chooses, one per physical core. */
  readonly threads: number | null;
}

/**
 * Sets threads and allocator and returns the device to use; `auto` is the best one present.
 *
 * @throws UserError for a device that this libtorch or machine has not.
 */
export function startEngine({ device, threads }: EngineOptions): DeviceName {
  if (threads !== null) setThreads(threads);
  tuneAllocator();
  const { cuda, mps } = about();
  const present: Readonly<Record<DeviceName, boolean>> = { cuda, mps, cpu: true };
  if (device === 'auto') return cuda ? 'cuda' : mps ? 'mps' : 'cpu';
  if (present[device]) return device;
  throw new UserError(`Expected a device that is there for --device but received ${device}.`, {
    flag: '--device',
    cure: '`minicpm-finetune doctor` shows what there is; --device cpu always works.',
  });
}
