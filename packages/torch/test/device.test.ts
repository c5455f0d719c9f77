/** What can be said of devices where there is only the CPU. */
import { describe, expect, it } from 'vitest';
import { about, copyTo, deviceMemory, liveTensors, ops, Stream, scope, synchronize } from '../src/index.js';

describe('devices', () => {
  it('are copied to only when a tensor is elsewhere', () => {
    scope(() => {
      const here = ops.ones([2]);
      expect(copyTo(here, 'cpu')).toBe(here);
      const there = copyTo(here, 'meta'); // a device without values
      expect(there.device).toBe('meta');
      expect(there.shape).toEqual([2]);
    });
  });

  it('are waited for; the CPU is done when its operators return', () => {
    expect(() => synchronize('cpu')).not.toThrow();
  });

  it.skipIf(about().cuda)('that are not there say so, and leave nothing behind', () => {
    const before = liveTensors().tensors;
    expect(() => new Stream('cuda')).toThrow(/cuda/i);
    expect(() => deviceMemory('cuda')).toThrow(/cuda/i);
    expect(() => synchronize('cuda')).toThrow(/cuda/i);
    expect(() => scope(() => copyTo(ops.ones([2]), 'cuda'))).toThrow(/cuda|accelerator|NVIDIA/i);
    expect(() => deviceMemory('nonsense')).toThrow(/nonsense/);
    expect(liveTensors().tensors).toBe(before);
  });
});
