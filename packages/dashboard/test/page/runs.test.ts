import { expect, test } from 'vitest';
import { nextOrder, sortRows } from '../../page/kit/sort.js';
import { methodName } from '../../page/screens/runs/columns.js';
import { passes, readFilter } from '../../page/screens/runs/filter.js';
import { readRoute, tokenOf, writeRoute } from '../../page/shell/route.js';
import type { RunSummary } from '../../src/shared/api.js';

const run: RunSummary = {
  id: 'a',
  name: 'digits-lora',
  folder: '/runs/digits-lora',
  state: 'finished',
  error: null,
  phase: null,
  said: null,
  model: 'quickstart/full',
  method: { kind: 'lora', r: 64, preference: null },
  step: 150,
  totalSteps: 150,
  epoch: 0.5,
  etaSeconds: 0,
  loss: 0.0957,
  bestEvalLoss: null,
  bestMetric: null,
  tokensPerSecond: 3463,
  peakMemory: 4e8,
  started: '2026-11-27T04:14:28.608Z',
  updated: null,
  durationSeconds: 95,
  starts: 1,
  warnings: 0,
  resumableStep: null,
  changed: { learning_rate: 0.004, use_lora: true },
  notes: { tags: ['good'], star: true, note: 'first try', archived: false },
  offset: 0,
};
const defaults = { learning_rate: 1e-5, weight_decay: 0, lr_scheduler_type: 'cosine' };
const found = (text: string): boolean => passes(run, readFilter(text), defaults);

test.each([
  ['digits', true],
  ['GOOD first', true],
  ['letters', false],
  ['lr>1e-5', true],
  ['lr<=1e-5', false],
  ['--learning_rate=0.004', true],
  ['r=64', true],
  ['r!=64', false],
  ['weight_decay=0', true],
  ['lr_scheduler_type=cos', true],
  ['state=finished digits lr>1e-5 r=64', true],
  ['use_lora=true', true],
  ['star=true', true],
  ['tag=good', true],
  ['eval_loss<1', false],
  ['eval_loss!=1', true],
  ['loss<0.1', true],
  ['no_such_flag=1', false],
])('the filter %j passes: %s', (text, passed) => {
  expect(found(text)).toBe(passed);
});

test('half a condition is named, not taken for a word', () => {
  expect(readFilter('lr> =3 ok')).toEqual({ words: ['ok'], conditions: [], mistakes: ['lr>', '=3'] });
});

test('rows without a value come last in both directions', () => {
  const rows = [{ v: 2 }, { v: null }, { v: 1 }, { v: Number.NaN }, { v: 10 }];
  expect(sortRows(rows, ({ v }) => v, false).map(({ v }) => v)).toEqual([1, 2, 10, null, Number.NaN]);
  expect(sortRows(rows, ({ v }) => v, true).map(({ v }) => v)).toEqual([10, 2, 1, null, Number.NaN]);
  expect(sortRows(['run-10', 'run-9'], (name) => name, false)).toEqual(['run-9', 'run-10']);
});

test('a second click on a column turns its order', () => {
  const first = nextOrder({ column: 'name', descending: true }, 'loss');
  expect(first).toEqual({ column: 'loss', descending: true });
  expect(nextOrder(first, 'loss')).toEqual({ column: 'loss', descending: false });
});

test('methods are named as the field does', () => {
  expect(methodName({ kind: 'full', r: null, preference: null }, 'Full')).toBe('Full');
  expect(methodName({ kind: 'qlora', r: 8, preference: 'dpo' }, 'Full')).toBe('QLoRA r8 DPO');
  expect(methodName(null, 'Full')).toBeUndefined();
});

test('addresses survive any words', () => {
  const address = writeRoute(['runs', 'a/b ?#%'], { x: 'epoch', filter: 'lr>1e-5 r=64', none: '' });
  expect(readRoute(address).path).toEqual(['runs', 'a/b ?#%']);
  expect([...readRoute(address).query]).toEqual([
    ['x', 'epoch'],
    ['filter', 'lr>1e-5 r=64'],
  ]);
  expect(readRoute('#/runs/%E0%A4%A').path).toEqual(['runs', '%E0%A4%A']);
  expect(readRoute('').path).toEqual([]);
});

test('the token is read from its fragment alone', () => {
  expect(tokenOf('#token=aB_-9')).toBe('aB_-9');
  expect(tokenOf('#/runs?token=x')).toBeUndefined();
});
