import { UserError } from '@minicpm-finetune/run';
import { liveTensors, tensor } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { checkSampling, GREEDY, type PickedToken, pickToken, type Sampling } from '../../src/generation/sampling.js';

const one = (logits: readonly number[], sampling: Partial<Sampling>, ids: readonly number[] = [], stream = 0): number =>
  pickToken(tensor([...logits]), { ...GREEDY, ...sampling }, { stream, ids }).id;

/** How often each id is drawn, over many sequences. */
function frequencies(logits: readonly number[], sampling: Partial<Sampling>): number[] {
  const count = 10_000;
  const row = tensor([...logits]);
  const seen = logits.map(() => 0);
  for (let stream = 0; stream < count; stream++) {
    const { id } = pickToken(row, { ...GREEDY, temperature: 1, ...sampling }, { stream, ids: [] });
    seen[id]! += 1 / count;
  }
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

describe("OpenAI's penalties and bias", () => {
  it('take from the logits of generated ids: once, and as often as they came', () => {
    expect(one([4, 3.9], { presencePenalty: 0.2 }, [0])).toBe(1);
    expect(one([4, 3.7], { presencePenalty: 0.2 }, [0, 0, 0])).toBe(0);
    expect(one([4, 3.7], { frequencyPenalty: 0.2 }, [0])).toBe(0);
    expect(one([4, 3.7], { frequencyPenalty: 0.2 }, [0, 0])).toBe(1);
    expect(one([4, 3.7], { frequencyPenalty: -0.2 }, [1, 1])).toBe(1);
  });

  it('the bias is added to the logits of its ids; unknown ids have none', () => {
    expect(one([4, 3, 2], { logitBias: new Map([[2, 2.5]]) })).toBe(2);
    expect(one([4, 3, 2], { logitBias: new Map([[0, -100]]) })).toBe(1);
    expect(one([4, 3, 2], { logitBias: new Map([[7, 100]]) })).toBe(0);
  });
});

describe('min_p', () => {
  it('keeps the tokens with at least this share of the highest probability', () => {
    // shares: 0.368, 0.135, 1, 0.05
    close(frequencies([1, 0, 2, -1], { minP: 0.2 }), softmax([1, -Infinity, 2, -Infinity]));
    close(frequencies([1, 0, 2, -1], { minP: 1 }), [0, 0, 1, 0]);
    close(frequencies([1, 0, 2, -1], { minP: 0.1, topP: 0.7 }), softmax([1, -Infinity, 2, -Infinity]));
  });
});

describe('log-probabilities', () => {
  const picked = (logProbs: number): PickedToken =>
    pickToken(
      tensor([1, 0, 2]),
      { ...GREEDY, logitBias: new Map([[0, 9]]), temperature: 0 },
      { stream: 0, ids: [], logProbs },
    );

  it("are the model's own, whatever is done to choose", () => {
    const { id, logProb, top } = picked(2);
    expect(id).toBe(0);
    const expected = softmax([1, 0, 2]).map(Math.log);
    expect(logProb).toBeCloseTo(expected[0]!, 5);
    expect(top!.map((one) => one.id)).toEqual([2, 0]);
    expect(top![0]!.logProb).toBeCloseTo(expected[2]!, 5);
    expect(picked(9).top).toHaveLength(3);
    expect(picked(0).top).toEqual([]);
    expect(pickToken(tensor([1, 0]), GREEDY, { stream: 0, ids: [] })).toEqual({ id: 0 });
  });
});

describe('a large vocabulary', () => {
  const logits = Array.from({ length: 5000 }, (_, i) => Math.sin(i * 12.9898) * 0.3);

  it('draws the same whether the likeliest tokens are enough or not', () => {
    const row = tensor(logits);
    const order = logits.map((_, i) => i).sort((a, b) => logits[b]! - logits[a]!);
    const weights = order.map((i) => Math.exp(logits[i]!));
    const total = weights.reduce((a, b) => a + b, 0);
    const ranks: number[] = [];
    for (let stream = 0; stream < 300; stream++)
      ranks.push(order.indexOf(pickToken(row, { ...GREEDY, temperature: 1 }, { stream, ids: [] }).id));
    const share = (most: number): number => ranks.filter((rank) => rank < most).length / ranks.length;
    const expected = (most: number): number => weights.slice(0, most).reduce((a, b) => a + b, 0) / total;
    for (const most of [512, 1024, 3000]) expect(Math.abs(share(most) - expected(most))).toBeLessThan(0.1);
    expect(Math.max(...ranks)).toBeGreaterThan(4000);
  });

  it('top_p cuts where it does among few', () => {
    const row = tensor(logits);
    const most = 2500; // beyond the candidates that are looked at first
    const weights = [...logits].sort((a, b) => b - a).map(Math.exp);
    const total = weights.reduce((a, b) => a + b, 0);
    const topP = weights.slice(0, most).reduce((a, b) => a + b, 0) / total;
    const least = [...logits].sort((a, b) => b - a)[most]!;
    for (let stream = 0; stream < 100; stream++) {
      const { id } = pickToken(row, { ...GREEDY, temperature: 1, topP }, { stream, ids: [] });
      expect(logits[id]).toBeGreaterThanOrEqual(least);
    }
  });
});

describe('refused', () => {
  it('values out of range, by flag', () => {
    const flags: [Partial<Sampling>, string][] = [
      [{ temperature: -1 }, '--temperature'],
      [{ topP: 0 }, '--top_p'],
      [{ topP: 1.1 }, '--top_p'],
      [{ topK: 1.5 }, '--top_k'],
      [{ minP: 1.5 }, '--min_p'],
      [{ repetitionPenalty: 0 }, '--repetition_penalty'],
      [{ frequencyPenalty: Number.NaN }, '--frequency_penalty'],
      [{ presencePenalty: Infinity }, '--presence_penalty'],
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
  const logits = tensor([1, 2, 3]);
  const before = liveTensors().tensors;
  for (const temperature of [0, 1]) {
    const sampling = { ...GREEDY, temperature, topK: 2, repetitionPenalty: 1.2, logitBias: new Map([[1, 1]]) };
    pickToken(logits, sampling, { stream: 0, ids: [1], logProbs: 2 });
  }
  expect(liveTensors().tensors).toBe(before);
});
