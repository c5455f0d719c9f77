import { expect, test } from 'vitest';
import { differences, shareFrom } from '../../page/screens/compare/differences.js';
import { chooseRows, isRight, matchingStep, rowsOf, sameRecord, scoreOf } from '../../page/screens/run/answers.js';
import { groupsOf, linesOf } from '../../page/screens/run/chart-groups.js';
import { shellLines } from '../../page/screens/run/command.js';
import { shownFlag } from '../../page/screens/run/flag-value.js';
import { MOST_FOUND, piecesOf, turned } from '../../page/screens/run/log-search.js';
import { appendLog, prependLog } from '../../page/screens/run/log-window.js';
import { barsOf, sumOf } from '../../page/screens/run/memory.js';
import { systemCharts } from '../../page/screens/run/system-charts.js';
import type { AnswerRecord, Column, ConfigEntry, StepAnswers } from '../../src/shared/api.js';

const column = (y: (number | null)[]): Column => ({
  x: y.map((_, index) => index + 1),
  y,
  smooth: y,
  of: y.length,
});

test('every metric gets a chart, also one that this page does not know', () => {
  const names = [
    'tokens_per_s',
    'loss',
    'eval_loss',
    'eval_anls',
    'supervised_tokens_per_s',
    'new_thing',
    'system.rss',
  ];
  const groups = groupsOf([...names, 'rewards/chosen', 'memory.rss', 'memory.tensors']);
  expect(groups.map(({ key, metrics }) => [key, ...metrics])).toEqual([
    ['loss', 'loss', 'eval_loss'],
    ['rewards', 'rewards/chosen'],
    ['eval', 'eval_anls'],
    ['tokens', 'tokens_per_s', 'supervised_tokens_per_s'],
    ['memory', 'memory.rss'],
    ['tensors', 'memory.tensors'],
    ['new_thing', 'new_thing'],
  ]);
});

test('evaluations are dots without an average, abandoned branches are faint', () => {
  const [group] = groupsOf(['loss', 'eval_loss']);
  const series = {
    x: 'step' as const,
    columns: { loss: column([3, null, 1]), eval_loss: column([2]) },
    abandoned: [{ start: 0, columns: { loss: column([9]) } }],
    marks: [],
    offset: 0,
  };
  const lines = linesOf(group!, series, (metric, start) => `${metric} ${start ?? ''}`);
  expect(lines.map(({ key, label, dots, faint, smooth }) => [key, label, dots, faint, smooth?.length])).toEqual([
    ['loss', 'loss ', undefined, undefined, 3],
    ['eval_loss', 'eval_loss ', true, undefined, undefined],
    ['loss@0', 'loss 1', undefined, true, undefined],
  ]);
  expect(lines[0]!.y).toEqual([3, null, 1]);
});

const record = (number: number, reference: string | null, id: string | null = null): AnswerRecord => ({
  record: number,
  id,
  question: `question ${number}`,
  reference,
  images: [],
  videos: [],
});
const step = (at: number, ...answers: [number, string, Record<string, number>?][]): StepAnswers => ({
  step: at,
  answers: answers.map(([number, answer, metrics = {}]) => ({
    record: number,
    answer,
    tokens: 1,
    end: 'end',
    metrics,
  })),
  damaged: [],
});

test('answers are wrong by exact match, or by their reference, or not known', () => {
  const answer = step(1, [0, ' 7 ']).answers[0]!;
  expect(isRight(record(0, '7'), answer)).toBe(true);
  expect(isRight(record(0, '8'), answer)).toBe(false);
  expect(isRight(record(0, null), answer)).toBeUndefined();
  expect(isRight(record(0, '7'), { ...answer, metrics: { exact_match: 0 } })).toBe(false);
  expect(scoreOf(record(0, '7'), { ...answer, metrics: { anls: 0.5, rouge_l: 1 } })).toBe(0.75);
});

test('samples are filtered and ordered', () => {
  const records = [record(0, 'a'), record(1, 'b'), record(2, null), record(3, 'd')];
  const rows = rowsOf(records, step(2, [0, 'a'], [1, 'x'], [2, 'free']), step(1, [0, 'z'], [1, 'x']));
  const numbers = (list: ReturnType<typeof chooseRows>): number[] => list.map((row) => row.record.record);
  expect(numbers(chooseRows(rows, 'all', false))).toEqual([0, 1, 2, 3]);
  expect(numbers(chooseRows(rows, 'wrong', false))).toEqual([1]);
  expect(numbers(chooseRows(rows, 'changed', false))).toEqual([0]);
  expect(numbers(chooseRows(rows, 'all', true))).toEqual([1, 0, 2, 3]);
});

test('another run is matched by step or epoch, its records by id', () => {
  const steps = [
    { step: 10, epoch: 0.5, metrics: {} },
    { step: 20, epoch: 1, metrics: {} },
  ];
  expect(matchingStep(steps, { step: 12, epoch: 0.9 }, 'step')).toBe(10);
  expect(matchingStep(steps, { step: 12, epoch: 0.9 }, 'epoch')).toBe(20);
  expect(matchingStep([], { step: 1, epoch: null }, 'step')).toBeUndefined();
  const records = [record(0, 'a', 'x'), record(1, 'b', 'y')];
  expect(sameRecord(records, record(5, 'b', 'y'))?.record).toBe(1);
  expect(sameRecord(records, record(1, 'b'))?.record).toBe(1);
  expect(sameRecord(records, { ...record(1, 'b'), question: 'other' })).toBeUndefined();
});

test('bars of memory hold what is known', () => {
  expect(barsOf(null, null)).toEqual([]);
  expect(barsOf({ rss: 10 }, null)).toEqual([{ key: 'measured', segments: [{ key: 'process', bytes: 10 }] }]);
  const bars = barsOf(
    { rss: 10, device_peak: 30 },
    { baseline: 20, kept: 5, by: { gradients: 4, weights: 8, new: 1, batch: 0 } },
  );
  expect(bars.map(({ key, segments }) => [key, sumOf(segments), ...segments.map((one) => one.key)])).toEqual([
    ['measured', 30, 'device'],
    ['planned', 25, 'baseline', 'kept'],
    ['estimated', 13, 'weights', 'gradients', 'new'],
  ]);
});

test('the machine has a chart for what it measures', () => {
  const charts = systemCharts([
    'system.cpu_percent',
    'system.rss',
    'system.gpu.1.util',
    'system.gpu.0.mem_used',
    'loss',
  ]);
  expect(charts.map(({ key, gpu, metrics }) => [key, gpu, ...metrics])).toEqual([
    ['cpu', null, 'system.cpu_percent'],
    ['memory', null, 'system.rss'],
    ['gpuMemory', 0, 'system.gpu.0.mem_used'],
    ['gpu', 1, 'system.gpu.1.util'],
  ]);
});

const flag = (name: string, value: unknown): ConfigEntry => ({
  name,
  group: 'model',
  heading: { en: 'Model', zh: '模型' },
  help: null,
  kind: null,
  value,
  changed: true,
});

test('a comparison shows the flags that differ, inside objects too, and no places', () => {
  const rows = differences([
    [flag('lr', 1), flag('same', [1, 2]), flag('output_dir', 'a'), flag('kwargs', { a: 1, b: 2 })],
    [flag('lr', 2), flag('same', [1, 2]), flag('output_dir', 'b'), flag('kwargs', { a: 1, b: 3 }), flag('new', null)],
  ]);
  expect(rows).toEqual([
    { name: 'lr', values: [1, 2] },
    { name: 'kwargs.b', values: [2, 3] },
    { name: 'new', values: [undefined, null] },
  ]);
});

test('a distance from the baseline is a share of it', () => {
  expect(shareFrom(1.1, 1)).toBeCloseTo(0.1);
  expect(shareFrom(-3, -2)).toBeCloseTo(-0.5);
  expect(shareFrom(1, 0)).toBeUndefined();
  expect(shareFrom(null, 1)).toBeUndefined();
});

test('values of flags are written as on the command line', () => {
  expect([
    shownFlag('a b'),
    shownFlag(''),
    shownFlag([1, 'x']),
    shownFlag([]),
    shownFlag(null),
    shownFlag({ a: 1 }),
  ]).toEqual(['a b', '""', '1 x', '[]', 'null', '{"a":1}']);
});

test('commands are written for a shell, each flag on a line', () => {
  expect(shellLines(['node', 'x.js', 'train', '--a=1', '--b', "it's"])).toBe(
    "node x.js train \\\n  --a=1 \\\n  --b 'it'\\''s'",
  );
  expect(shellLines("mf train --a=1 '--b=c --d' --e='f g'")).toBe(
    "mf train \\\n  --a=1 \\\n  '--b=c --d' \\\n  --e='f g'",
  );
});

test('windows of a log are put together by their bytes', () => {
  const first = { text: 'one\n', from: 10, to: 14, size: 14 };
  const next = { text: 'two\n', from: 14, to: 18, size: 18 };
  expect(appendLog(first, next)).toEqual({ text: 'one\ntwo\n', from: 10, to: 18, size: 18 });
  expect(prependLog(first, next)).toEqual({ text: 'one\ntwo\n', from: 10, to: 18, size: 18 });
  const afresh = { text: 'new\n', from: 0, to: 4, size: 4 };
  expect(appendLog(first, afresh)).toEqual(afresh);
  const lines = `${'x'.repeat(1023)}\n`.repeat(1024);
  const cut = appendLog(
    { text: 'é\né\n', from: 0, to: 6, size: 6 },
    { text: lines, from: 6, to: 6 + 2 ** 20, size: 6 + 2 ** 20 },
  );
  expect(cut.text).toBe(lines.slice(1024));
  expect(cut.from).toBe(6 + 1024);
});

test('places of a text in a log are pieces of their own, whatever their case', () => {
  const { pieces, found } = piecesOf('Loss 2, loss 1 (50 %)', 'loss');
  expect(found).toBe(2);
  expect(pieces).toEqual([
    { text: 'Loss', place: 0 },
    { text: ' 2, ', place: null },
    { text: 'loss', place: 1 },
    { text: ' 1 (50 %)', place: null },
  ]);
  expect(piecesOf('a (b) [c', '(b) [').found).toBe(1);
  expect(piecesOf('训练 损失', '损失').found).toBe(1);
  expect(piecesOf('abc', '')).toEqual({ pieces: [{ text: 'abc', place: null }], found: 0 });
  const many = piecesOf('a'.repeat(MOST_FOUND + 5), 'a');
  expect(many.found).toBe(MOST_FOUND);
  expect(many.pieces.map(({ text }) => text).join('')).toBe('a'.repeat(MOST_FOUND + 5));
  expect([turned(0, -1, 3), turned(2, 1, 3), turned(0, 1, 0)]).toEqual([2, 0, 0]);
});
