/** Device, threads and allocator of a command with a model. Not here: what a command computes with them. */
import { formatBytes, UserError } from '@minicpm-finetune/run';
import { about, deviceMemory, OutOfMemoryError, setThreads, tuneAllocator } from '@minicpm-finetune/torch';

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
  if (device === 'auto') return deviceNamed(device);
  if (present[device]) return device;
  throw new UserError(`Expected a device that is there for --device but received ${device}.`, {
    flag: '--device',
    cure: '`minicpm-finetune doctor` shows what there is; --device cpu always works.',
  });
}

/** The device that a setting means; `auto` is the best one that this libtorch and machine have. */
export function deviceNamed(device: EngineOptions['device']): DeviceName {
  if (device !== 'auto') return device;
  const { cuda, mps } = about();
  return cuda ? 'cuda' : mps ? 'mps' : 'cpu';
}

/** Runs `body`; its error for want of memory on a device becomes that of `explainMemory`. */
export async function explainingMemory<T>(device: DeviceName, cure: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    throw explainMemory(error, device, cure);
  }
}

/**
 * What a user is told when a device has no memory left. Other errors are returned as they are.
 *
 * @param device where it happened
 * @param cure what would take less
 */
export function explainMemory(error: unknown, device: DeviceName, cure: string): unknown {
  if (!(error instanceof OutOfMemoryError) || device === 'cpu') return error;
  const { allocated, peak, free, total } = deviceMemory(device);
  const has = total > 0 ? `${formatBytes(total)} in all, ${formatBytes(free)} free` : 'size unknown';
  const held = `tensors take ${formatBytes(allocated)} now and took ${formatBytes(peak)} at most`;
  const wanted = wantedBytes(error);
  return new UserError(
    `Expected memory for ${wanted > 0 ? formatBytes(wanted) : 'a tensor'} on ${device} but received none: ${held} (${has}).`,
    { flag: '--device', cure, cause: error },
  );
}

const UNITS: Readonly<Record<string, number>> = { bytes: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 };

/** Bytes of the tensor that there was no room for, as libtorch says it; 0 where it does not. */
export function wantedBytes({ message }: OutOfMemoryError): number {
  const [, number, unit] = /Tried to allocate ([\d.]+) (bytes|[KMGT]iB)/.exec(message) ?? [];
  return Number(number ?? 0) * (UNITS[unit ?? ''] ?? 0);
}
