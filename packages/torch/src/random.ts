/** Random numbers: seeds, and the states of the generators. Every device has a generator of its own. */
import { native } from './native.js';
import { keep } from './scope.js';
import { guard, Tensor } from './tensor.js';

/** Seeds the generator of one device, or those of all devices. */
export function manualSeed(seed: number, device: string | null = null): void {
  guard(() => native.manualSeed(seed, device));
}

/** The state of a device's generator, as a uint8 tensor that belongs to the caller's scope. */
export function rngState(device = 'cpu'): Tensor {
  return new Tensor(guard(() => native.rngState(device)));
}

/** Sets the state of a device's generator to one that `rngState` returned. */
export function setRngState(state: Tensor, device = 'cpu'): void {
  guard(() => native.setRngState(device, state.handle('setRngState')));
}

/**
 * The states of the generators of the CPU and of `devices`, as they are when it is made. Belongs to no scope: its owner disposes of it.
 */
export class RandomState implements Disposable {
  /** By device, `cpu` first. */
  readonly tensors: ReadonlyMap<string, Tensor>;

  constructor(devices: readonly string[]) {
    const all = new Set(['cpu', ...devices]);
    this.tensors = new Map([...all].map((device) => [device, keep(rngState(device))]));
  }

  /** Sets the generators back to these states. */
  restore(): void {
    for (const [device, state] of this.tensors) setRngState(state, device);
  }

  dispose(): void {
    for (const state of this.tensors.values()) state.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Runs `fn` and then sets the generators of the CPU and of `devices` back to what they were before, also when `fn` throws: the random
 * numbers drawn in `fn` change none that are drawn after it. Synchronous.
 */
export function withRandomState<T>(devices: readonly string[], fn: () => T): T {
  using before = new RandomState(devices);
  try {
    const result = fn();
    if (result instanceof Promise) throw new Error('Expected a synchronous function but it returned a promise');
    return result;
  } finally {
    before.restore();
  }
}
