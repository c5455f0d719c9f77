/** What a person is told of a preference tuning, once each. */
import { describe, expect, it } from 'vitest';
import type { RunLog } from '../../src/report/run-log.js';
import { PreferenceWatch } from '../../src/train/preference.js';

function watched(beta: number | null = 0.1): {
  see(step: number, preference: Record<string, number>): void;
  said: string[];
} {
  const said: string[] = [];
  const log = {
    reporter: { notice: (text: string) => said.push(`notice ${text.slice(0, 40)}`) },
    warn: (kind: string) => said.push(kind),
  };
  const watch = new PreferenceWatch(log as unknown as RunLog, beta);
  return { see: (step, preference) => watch.see({ step, preference }), said };
}

const metrics = (chosen: number, logp: number, accuracy = 0.9) => ({
  ...{ 'rewards/chosen': chosen, 'rewards/margins': 0.5, 'rewards/accuracies': accuracy, 'logps/chosen': logp },
});

describe('PreferenceWatch', () => {
  it('explains falling rewards of chosen answers once', () => {
    const { see, said } = watched();
    see(1, metrics(-1e-5, -20)); // rounding
    see(10, metrics(0.1, -20));
    expect(said).toEqual([]);
    see(20, metrics(-0.1, -21));
    see(30, metrics(-0.2, -22));
    expect(said).toEqual(['notice The rewards of chosen answers fall: the ']);
  });

  it('compares the last ten logged steps with the first ten where there is no reference', () => {
    const { see, said } = watched(null);
    for (let i = 1; i <= 30; i++) see(10 * i, metrics(i % 2 === 0 ? -14 : -10, i % 2 === 0 ? -30 : -10));
    expect(said).toEqual([]);
    for (let i = 31; i <= 35; i++) see(10 * i, metrics(-13, -20));
    expect(said).toEqual(['notice The rewards of chosen answers fall: the ']);
    for (let i = 36; i <= 45; i++) see(10 * i, metrics(-13, -26));
    expect(said.slice(1)).toEqual(['chosen_unlikely']);
  });

  it('warns once of chosen answers that lose a fifth of their log-probability, and more than one', () => {
    const { see, said } = watched();
    see(10, metrics(-0.04, -0.9)); // -0.5 under the reference
    expect(said).toHaveLength(1);
    const far = watched();
    for (const step of [10, 20]) far.see(step, metrics(-0.5, -25)); // -20
    expect(far.said.slice(1)).toEqual(['chosen_unlikely']);
  });

  it('does not take other answers for a fall', () => {
    const { see, said } = watched();
    see(10, metrics(0.1, -20));
    see(20, metrics(0.2, -60)); // longer ones, which the model makes more likely than the reference does
    expect(said).toEqual([]);
  });

  it('warns of an accuracy near one half for 100 steps, not before', () => {
    const { see, said } = watched();
    for (let step = 10; step < 110; step += 10) see(step, metrics(0.1, -20, 0.52));
    expect(said).toEqual([]);
    see(110, metrics(0.1, -20, 0.49));
    expect(said).toEqual(['no_preference']);
    const learning = watched();
    for (let step = 10; step < 300; step += 10) learning.see(step, metrics(0.1, -20, step % 50 === 0 ? 0.8 : 0.5));
    expect(learning.said).toEqual([]);
  });
});
