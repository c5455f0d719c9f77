/** Long work in steps. */
import { expect, it } from 'vitest';
import { atOnce, inTurns, type Steps } from '../src/steps.js';

function* counting(to: number, each: () => void): Steps<number> {
  for (let i = 0; i < to; i++) {
    each();
    yield;
  }
  return to;
}

const busy = (): void => {
  for (const end = performance.now() + 25; performance.now() < end; );
};

it('gives its result, and what goes wrong', async () => {
  expect(atOnce(counting(3, () => {}))).toBe(3);
  expect(await inTurns(counting(3, () => {}))).toBe(3);
  const fail = (): never => {
    throw new Error('step');
  };
  expect(() => atOnce(counting(3, fail))).toThrow('step');
  await expect(inTurns(counting(3, fail))).rejects.toThrow('step');
});

it('lets others have their turn between long steps, and not at once', async () => {
  let turns = 0;
  let over = false;
  const other = (): void => {
    turns++;
    if (!over) setImmediate(other);
  };
  setImmediate(other);
  atOnce(counting(3, busy));
  expect(turns).toBe(0);
  await inTurns(counting(5, busy));
  over = true;
  expect(turns).toBeGreaterThanOrEqual(4);
});
