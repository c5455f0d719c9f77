import { UserError } from '@minicpm-finetune/run';
import { liveTensors, type Tensor, tensor } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { checkSampling, GREEDY, pickTokens, type Sampling } from '../../src/generation/sampling.js';

const one = (logits: readonly number[], sampling: Partial<Sampling>, ids: readonly number[] = [], stream = 0): number =>
  pickTokens(tensor([logits]), { ...GREEDY, ...sampling }, [{ stream, ids }])[0]!;

/** How often each id is drawn, over many sequences. */
function frequencies(logits: readonly number[], sampling: Partial<Sampling>): number[] {
  const count = 20_000;
  const rows: Tensor = tensor(Array.from({ length: count }, () => logits));
  const sequences = Array.from({ length: count }, (_, stream) => ({ stream, ids: [] }));
  const seen = logits.map(() => 0);
  for (const id of pickTokens(rows, { ...GREEDY, temperature: 1, ...sampling }, sequences)) seen[id]! += 1 / count;
  return seen;
}

const softmax = (logits: readonly number[]): number[] => {
  const exps = logits.map(Math.exp);
  const total = exps.reduce((a, b) => a + b, 0);
  return exps.map((value) => value / total);
};

const close = (seen: readonly number[], expected: readonly number[]): void => {
  seen.forEach((value, i) => {
    expect(Math.abs(value - expected[i]!)).toBeLessThan(0.015);
  });
};

describe('greedy', () => {
  it('takes the largest, the first of equals', () => {
    expect(one([1, 5, 3], {})).toBe(1);
    expect(one([1, 5, 5], {})).toBe(1);
  });

  it('does so for every sequence of a batch', () => {
    const sequences = [0, 1].map((stream) => ({ stream, ids: [] }));
    const logits = tensor([
      [0, 1],
      [1, 0],
    ]);
    expect(pickTokens(logits, GREEDY, sequences)).toEqual([1, 0]);
  });
});

describe('drawing', () => {
  const logits = [1, 0, 2, -1];

  it('follows the softmax, sharpened or flattened by the temperature', () => {
    close(frequencies(logits, {}), softmax(logits));
    close(frequencies(logits, { temperature: 0.5 }), softmax(logits.map((x) => x / 0.5)));
    close(frequencies(logits, { temperature: 3 }), softmax(logits.map((x) => x / 3)));
  });

  it('top_k keeps that many', () => {
    close(frequencies(logits, { topK: 2 }), softmax([1, -Infinity, 2, -Infinity]));
    expect(one(logits, { temperature: 9, topK: 1 })).toBe(2);
    close(frequencies(logits, { topK: 99 }), softmax(logits));
  });

  it('top_p keeps the likeliest that together reach it', () => {
    // probabilities: 0.237, 0.087, 0.644, 0.032
    close(frequencies(logits, { topP: 0.6 }), [0, 0, 1, 0]);
    close(frequencies(logits, { topP: 0.7 }), softmax([1, -Infinity, 2, -Infinity]));
    close(frequencies(logits, { topP: 0.9 }), softmax([1, 0, 2, -Infinity]));
    close(frequencies(logits, { topP: 1e-9 }), [0, 0, 1, 0]);
  });

  it('top_p counts among what top_k leaves', () => {
    // of the two best: 0.27, 0.73
    close(frequencies(logits, { topK: 2, topP: 0.7 }), [0, 0, 1, 0]);
    close(frequencies(logits, { topK: 2, topP: 0.75 }), softmax([1, -Infinity, 2, -Infinity]));
  });

  it('depends on seed, sequence and step alone', () => {
    const flat = Array.from({ length: 50 }, () => 0);
    const draw = (seed: number, stream: number, step: number): number =>
      one(flat, { temperature: 1, seed }, new Array(step).fill(0), stream);
    expect(draw(1, 2, 3)).toBe(draw(1, 2, 3));
    const all = [draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1 + 2 ** 40, 2, 3)];
    expect(new Set(all).size).toBeGreaterThan(3);
    const batch = pickTokens(tensor([flat, flat]), { ...GREEDY, temperature: 1, seed: 1 }, [
      { stream: 9, ids: [0, 0, 0] },
      { stream: 2, ids: [0, 0, 0] },
    ]);
    expect(batch[1]).toBe(draw(1, 2, 3));
  });
});

describe('the repetition penalty', () => {
  it('divides positive scores of generated ids and multiplies negative ones', () => {
    expect(one([4, 3.9], { repetitionPenalty: 1.1 }, [0])).toBe(1);
    expect(one([-4, -4.3], { repetitionPenalty: 1.1 }, [0])).toBe(1);
    expect(one([-4, -4.5], { repetitionPenalty: 1.1 }, [0])).toBe(0);
    expect(one([4, 3.9], { repetitionPenalty: 1.1 }, [])).toBe(0);
  });

  it('counts an id once however often it came', () => {
    expect(one([4, 3.5], { repetitionPenalty: 1.1 }, [0, 0, 0, 0])).toBe(0);
  });
});

describe('refused', () => {
  it('values out of range, by flag', () => {
    const flags: [Partial<Sampling>, string][] = [
      [{ temperature: -1 }, '--temperature'],
      [{ topP: 0 }, '--top_p'],
      [{ topP: 1.1 }, '--top_p'],
      [{ topK: 1.5 }, '--top_k'],
      [{ repetitionPenalty: 0 }, '--repetition_penalty'],
      [{ seed: -1 }, '--seed'],
      [{ temperature: Number.NaN }, '--temperature'],
    ];
    for (const [change, flag] of flags) {
      expect(() => checkSampling({ ...GREEDY, ...change })).toThrow(flag);
    }
    expect(() => checkSampling(GREEDY)).not.toThrow();
  });

  it('NaN, drawn or not', () => {
    expect(() => one([1, Number.NaN], {})).toThrow(UserError);
    expect(() => one([1, Number.NaN], { temperature: 1, topK: 1 })).toThrow('NaN');
  });
});

it('frees what it makes', () => {
  const logits = tensor([[1, 2, 3]]);
  const before = liveTensors().tensors;
  for (const temperature of [0, 1]) {
    pickTokens(logits, { ...GREEDY, temperature, topK: 2, repetitionPenalty: 1.2 }, [{ stream: 0, ids: [1] }]);
  }
  expect(liveTensors().tensors).toBe(before);
});
