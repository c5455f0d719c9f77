/** How often a step waits for the device, counted natively: a constant, whatever the number of layers and micro-batches. */
import { setLoraTraining, trainableParameters } from '@minicpm-finetune/minicpm-v';
import { deviceWaits, ops, scope, tensor } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { collate } from '../../src/engine/collate.js';
import { Optimizer, withoutDecay } from '../../src/engine/optimizer.js';
import { trainStep } from '../../src/engine/step.js';
import { tuneFully } from '../../src/engine/trainables.js';
import { modelInMemory, noiseSample } from '../support/model-in-memory.js';

const MOST = 3;

describe('waits for the device', () => {
  it('are reading a value and copying to the CPU', () => {
    const count = (work: () => unknown): number => {
      const before = deviceWaits();
      scope(work);
      return deviceWaits() - before;
    };
    const x = tensor([1, 2]);
    expect(count(() => ops.sumAll(ops.mul(x, x)))).toBe(0);
    expect(count(() => ops.sumAll(x).item())).toBe(1);
    expect(count(() => x.toNumbers())).toBe(1);
    expect(count(() => ops.toDevice(x, 'cpu', 'float32'))).toBe(1);
    expect(count(() => ops.toDevice(x, 'meta', 'float32'))).toBe(1);
    expect(count(() => ops.toDevice(x, 'meta', 'float32', true))).toBe(0);
    expect(count(() => ops.nonzero(x))).toBe(1);
    x.dispose();
  });

  it.each([
    { microBatches: 1, fused: false },
    { microBatches: 4, fused: false },
    { microBatches: 1, fused: true },
  ])('are at most three in a step: %j', ({ microBatches, fused }) => {
    const model = modelInMemory();
    tuneFully(model, { tuneVision: true, tuneLlm: true });
    setLoraTraining(model, true);
    const optimizer = new Optimizer(trainableParameters(model), withoutDecay(model), {
      ...{ learningRate: 1e-3, visionLearningRate: null, resamplerLearningRate: null, embeddingLearningRate: null },
      ...{ loraPlusRatio: null, weightDecay: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, masterWeights: true },
    });
    for (const recompute of [false, true]) {
      const batches = Array.from({ length: microBatches }, (_, i) =>
        collate([noiseSample(model, 24 + i, [[4, 4]], i), noiseSample(model, 30, [], 9 + i)]),
      );
      const before = deviceWaits();
      trainStep(model, batches, optimizer, 1, { maxGradNorm: 1, recompute, perMicroBatch: false, fused });
      expect(deviceWaits() - before).toBeLessThanOrEqual(MOST);
      expect(deviceWaits()).toBeGreaterThan(before);
    }
    optimizer.dispose();
    model.dispose();
  });
});
