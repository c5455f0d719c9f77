import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { addressOf, failure, wordsOf } from '../../page/client/request.js';
import { diffWords } from '../../page/kit/diff.js';
import { Throttle } from '../../page/kit/throttle.js';

const text = (before: string, after: string, kind: 'removed' | 'added'): string =>
  diffWords(before, after)
    .filter((part) => part.kind === 'same' || part.kind === kind)
    .map((part) => part.text)
    .join('');

test.each([
  ['The digit is 3.', 'The digit is 8.'],
  ['', 'new'],
  ['gone', ''],
  ['图中的数字是三', '图中数字是八'],
  ['a  b\nc', 'a b\n\nc d'],
  ['same', 'same'],
])('a difference of %j and %j holds both texts', (before, after) => {
  expect(text(before, after, 'removed')).toBe(before);
  expect(text(before, after, 'added')).toBe(after);
});

test('a difference is as small as its words allow', () => {
  expect(diffWords('The digit is 3.', 'The digit is 8.')).toEqual([
    { kind: 'same', text: 'The digit is ' },
    { kind: 'removed', text: '3' },
    { kind: 'added', text: '8' },
    { kind: 'same', text: '.' },
  ]);
  expect(diffWords('same', 'same')).toEqual([{ kind: 'same', text: 'same' }]);
});

test('very long texts are compared whole', () => {
  const [before, after] = ['a '.repeat(3000), 'b '.repeat(3000)];
  expect(diffWords(before, after)).toEqual([
    { kind: 'removed', text: before },
    { kind: 'added', text: after },
  ]);
});

test('addresses of endpoints hold places and query', () => {
  expect(addressOf('/api/runs/:id/answers/:step', { id: 'a b', step: 3 })).toBe('/api/runs/a%20b/answers/3');
  expect(addressOf('/api/log/:id', { id: 'x' }, { from: 0, last: undefined })).toBe('/api/log/x?from=0');
});

test('an error has the words of the server, its field and its cure', () => {
  const error = failure(400, '{"error":{"message":"Expected a number.","field":"lora_r","cure":"Give 8."}}');
  expect([error.status, error.field, wordsOf(error)]).toEqual([400, 'lora_r', 'Expected a number. Give 8.']);
  expect(failure(502, '<html>Bad gateway').message).toBe('<html>Bad gateway');
  expect(failure(500, '').message).toBe('status 500');
});

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('a throttle calls at once, then once a span, and never loses the last call', () => {
  let calls = 0;
  const throttle = new Throttle(1000, () => calls++);
  for (let i = 0; i < 5; i++) throttle.call();
  expect(calls).toBe(1);
  vi.advanceTimersByTime(1000);
  expect(calls).toBe(2);
  vi.advanceTimersByTime(5000);
  expect(calls).toBe(2);
  throttle.call();
  throttle.call();
  throttle.stop();
  vi.advanceTimersByTime(5000);
  expect(calls).toBe(3);
});
