import { describe, expect, it } from 'vitest';
import {
  about,
  liveTensors,
  manualSeed,
  ops,
  RandomState,
  rngState,
  scope,
  seedOf,
  setRngState,
  withRandomState,
} from '../src/index.js';

const devices = ['cpu', ...(about().cuda ? ['cuda'] : []), ...(about().mps ? ['mps'] : [])];
const draw = (device: string): number[] => scope(() => ops.uniform_(ops.empty([4], { device })).toNumbers());

describe.each(devices)('random numbers on %s', (device) => {
  it('repeat from a seed and from a saved state', () => {
    scope(() => {
      manualSeed(7);
      const first = draw(device);
      const state = rngState(device);
      const second = draw(device);
      setRngState(state, device);
      expect(draw(device)).toEqual(second);
      manualSeed(7, device);
      expect(draw(device)).toEqual(first);
      expect(first).not.toEqual(second);
    });
  });

  it('of other devices are left alone by the seed of one', () => {
    manualSeed(7);
    const first = new Map(devices.map((own) => [own, draw(own)]));
    manualSeed(7);
    manualSeed(8, device);
    for (const own of devices) {
      if (own === device) expect(draw(own)).not.toEqual(first.get(own));
      else expect(draw(own)).toEqual(first.get(own));
    }
  });

  it('drawn in withRandomState change none after it, on the CPU and on the device, also when it throws', () => {
    const drawAll = (): number[][] => ['cpu', device].map(draw);
    manualSeed(3);
    const expected = drawAll();
    manualSeed(3);
    const before = liveTensors().tensors;
    const inside = withRandomState([device], () => {
      manualSeed(4);
      return drawAll();
    });
    expect(() =>
      withRandomState([device], () => {
        drawAll();
        throw new Error('stop');
      }),
    ).toThrow('stop');
    expect(inside).not.toEqual(expected);
    expect(drawAll()).toEqual(expected);
    expect(liveTensors().tensors).toBe(before);
  });

  it('are drawn again after RandomState.restore', () => {
    manualSeed(5);
    using state = new RandomState([device]);
    const first = draw(device);
    const cpu = draw('cpu');
    state.restore();
    expect(draw(device)).toEqual(first);
    if (device !== 'cpu') expect(draw('cpu')).toEqual(cpu);
    expect([...state.tensors.keys()]).toEqual([...new Set(['cpu', device])]);
  });
});

describe('withRandomState', () => {
  it('refuses a function that returns a promise', () => {
    expect(() => withRandomState([], async () => 1)).toThrow(/synchronous function/);
  });
});

describe('seedOf', () => {
  it('is a function of the seed and of every part of the place', () => {
    const seeds = [
      seedOf(1),
      seedOf(2),
      seedOf(1, 0),
      seedOf(1, 1),
      seedOf(1, 0, 1),
      seedOf(1, 1, 0),
      seedOf(1, 'layers.1'),
      seedOf(1, 'layers.2'),
      seedOf(1, '1'),
      seedOf(2 ** 32 + 1),
      seedOf(1, 2 ** 40),
    ];
    expect(new Set(seeds).size).toBe(seeds.length);
    for (const seed of seeds) expect(Number.isSafeInteger(seed) && seed >= 0).toBe(true);
    expect(seedOf(1, 'layers.1', 2)).toBe(seedOf(1, 'layers.1', 2));
  });

  it('spreads evenly: each bit is set for half of the places', () => {
    const count = 4000;
    const set = new Array<number>(53).fill(0);
    for (let i = 0; i < count; i++) {
      const bits = BigInt(seedOf(7, i, 'x'));
      for (let bit = 0; bit < 53; bit++) set[bit]! += Number((bits >> BigInt(bit)) & 1n);
    }
    // five standard deviations of a fair coin
    for (const times of set) expect(Math.abs(times - count / 2)).toBeLessThan((5 * Math.sqrt(count)) / 2);
  });
});
