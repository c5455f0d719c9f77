/** A bfloat16 step computes in bfloat16: no block turns its values into another type on the way. */
import { traceOperators } from '@minicpm-finetune/torch';
import { expect, it } from 'vitest';
import { collate } from '../../src/engine/collate.js';
import type { StepProfile } from '../../src/engine/profiler.js';
import { lossAndGradients } from '../../src/engine/step.js';
import { tuneFully } from '../../src/engine/trainables.js';
import { modelInMemory, noiseSample } from '../support/model-in-memory.js';

it('casts nothing inside of the blocks', () => {
  const model = modelInMemory(1, 'bfloat16');
  tuneFully(model, { tuneVision: true, tuneLlm: true });
  const operators = new Map<string, string[]>();
  let block: string | null = null;
  const profile: StepProfile = {
    span: (_name, _category, run) => run(),
    block: (phase, node, run) => {
      block = `${phase} ${node.name}`;
      const result = run();
      block = null;
      return result;
    },
  };
  traceOperators((name) => {
    if (block !== null) operators.set(block, [...(operators.get(block) ?? []), name]);
  });
  const batch = collate([noiseSample(model, 31, [[4, 4]], 1), noiseSample(model, 12, [[2, 6]], 2)]);
  const options = { recompute: false, perMicroBatch: false, profile };
  const { gradients, rows, dispose } = lossAndGradients(model, [batch], options);
  traceOperators(null);
  expect(rows.size).toBe(1); // of the token table: a token that occurs often has many gradients, which are summed in float32
  // So are those of parameters that pictures of two shapes pass one after the other.
  for (const [name, gradient] of gradients)
    expect(gradient.dtype, name).toBe(rows.has(name) || !name.startsWith('llm.') ? 'float32' : 'bfloat16');
  dispose();
  const blocks = [...operators].filter(([name]) => /^forward (llm\.model\.layers|vpm\.encoder\.layers)/.test(name));
  expect(blocks.length).toBeGreaterThanOrEqual(4);
  for (const [name, used] of blocks) {
    expect(used, name).toContain('minicpm::linear');
    expect(
      used.filter((operator) => /^aten::(_?to|_to_copy|float)\b/.test(operator)),
      name,
    ).toEqual([]);
  }
  model.dispose();
});
