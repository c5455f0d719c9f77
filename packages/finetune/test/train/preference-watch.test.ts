/** What a person is told of a preference tuning, once each. */
import { describe, expect, it } from 'vitest';
import type { RunLog } from '../../src/report/run-log.js';
import { PreferenceWatch } from '../../src/train/preference.js';

function watched(hasReference = true): { see(step: number, preference: Record<string, number>): void; said: string[] } {
  const said: string[] = [];
  const log = {
    reporter: { notice: (text: string) => said.push(`notice ${text.slice(0, 40)}`) },
    warn: (kind: string) => said.push(kind),
  };
  const watch = new PreferenceWatch(log as unknown as RunLog, hasReference);
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

  it('compares rewards that have no reference with those of the first step', () => {
    const { see, said } = watched(false);
    see(1, metrics(-14, -20));
    see(2, metrics(-12, -19));
    expect(said).toEqual([]);
    see(3, metrics(-14.1, -20.1));
    expect(said).toEqual(['notice The rewards of chosen answers fall: the ']);
  });

  it('warns once of chosen answers that lose a fifth of their log-probability, and more than one', () => {
    const { see, said } = watched();
    see(10, metrics(0.1, -0.5));
    see(20, metrics(0.1, -0.9));
    expect(said).toEqual([]);
    const far = watched();
    far.see(10, metrics(0.1, -20));
    for (const step of [20, 30]) far.see(step, metrics(0.1, -25));
    expect(far.said).toEqual(['chosen_unlikely']);
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
