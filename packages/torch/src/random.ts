/** Random numbers: seeds, and the states of the generators. Every device has a generator of its own. */
import { native } from './native.js';
import { keep } from './scope.js';
import { guard, Tensor } from './tensor.js';

/**
 * A seed for a place: a function of a seed and of what the place is called (integers, texts), each of which changes it. So random numbers
 * depend on where they are used, and not on what was drawn before or by whom. An integer in 0 … 2^53-1.
 */
export function seedOf(seed: number, ...place: readonly (number | string)[]): number {
  let [high, low] = [0x9e3779b9, 0x85ebca6b];
  const take = (word: number): void => {
    low = scramble(low ^ word);
    high = scramble(high ^ low);
  };
  const number = (value: number): void => {
    take(value >>> 0);
    take(Math.floor(value / 2 ** 32) >>> 0);
  };
  number(seed);
  for (const part of place) {
    if (typeof part === 'number') number(part);
    else for (let i = 0; i < part.length; i++) take(part.charCodeAt(i) + 0x10000);
  }
  return (high >>> 11) * 2 ** 32 + (low >>> 0);
}

/** Mixes the bits of a 32-bit word (the finalizer of MurmurHash3; Appleby, 2011). */
function scramble(word: number): number {
  let h = word;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

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
