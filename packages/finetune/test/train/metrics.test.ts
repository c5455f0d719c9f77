import { describe, expect, it } from 'vitest';
import { anls, answerMetrics, exactMatch, meanMetrics, rougeL, words } from '../../src/train/metrics.js';

describe('exactMatch', () => {
  it('forgives white space at the ends only', () => {
    expect(exactMatch(' A cat.\n', 'A cat.')).toBe(1);
    expect(exactMatch('a cat.', 'A cat.')).toBe(0);
    expect(exactMatch('A  cat.', 'A cat.')).toBe(0);
  });
});

it('cuts thoughts off before an answer is compared', () => {
  const all = (answer: string, reference: string) => Object.values(answerMetrics(answer, reference));
  expect(all('<think>\nIt purrs.\n</think>\n\nA cat.', 'A cat.')).toEqual([1, 1, 1]);
  expect(all('A cat.', '<think>\nIt barks.\n</think>\n\nA cat.')).toEqual([1, 1, 1]);
  expect(all('It purrs.\n</think>\n\nA cat.', '<think>\nFur.\n</think>\n\nA cat.')).toEqual([1, 1, 1]);
  expect(all('<think>\nA cat.\n</think>\n\nNo!', '<think>\nA cat.\n</think>\n\nYes.')).toEqual([0, 0, 0]);
  expect(exactMatch('<think>\nA cat.', 'A cat.')).toBe(0); // the thought did not end
});

describe('anls', () => {
  it.each([
    ['Hello World', 'hello  world', 1], // case and spaces
    ['hallo', 'hello', 0.8],
    ['abcd', 'abxy', 0], // half is wrong: exactly the threshold counts as wrong
    ['abcde', 'abcxy', 0.6],
    ['', 'x', 0],
    ['', '', 1],
    ['这是猫', '这是狗', 1 - 1 / 3],
    ['😀😀😀', '😀😀x', 1 - 1 / 3], // characters, not UTF-16 units
  ])('%j for %j: %d', (answer, reference, expected) => {
    expect(anls(answer, reference)).toBeCloseTo(expected, 12);
    expect(anls(reference, answer)).toBeCloseTo(expected, 12);
  });
});

describe('rougeL', () => {
  it.each([
    // the example of Lin (2004): common subsequences of 3 and of 2 words out of 4
    ['police kill the gunman', 'police killed the gunman', 3 / 4],
    ['the gunman kill police', 'police killed the gunman', 2 / 4],
    ['the slow brown fox', 'the quick brown fox jumps over', (2 * 3) / (4 + 6)],
    ['The CAT!', 'the cat', 1],
    ['', 'the cat', 0],
    ['...', '...', 0],
    ['这是一只猫', '这是猫', (2 * 3) / (5 + 3)],
    ['猫', '狗', 0],
    ['MiniCPM很好', 'minicpm 好', (2 * 2) / (3 + 2)],
  ])('%j for %j: %d', (answer, reference, expected) => {
    expect(rougeL(answer, reference)).toBeCloseTo(expected, 12);
  });

  it('takes single characters as words in scripts without spaces', () => {
    expect(words('数字7和１２ über-Maß, ｶﾅ')).toEqual(['数', '字', '7', '和', '12', 'über', 'maß', 'カ', 'ナ']);
  });
});

describe('meanMetrics', () => {
  it('averages each metric', () => {
    const all = [answerMetrics('a b', 'a b'), answerMetrics('a c', 'a b')];
    const { exact_match, anls: similarity, rouge_l } = meanMetrics(all);
    expect([exact_match, rouge_l]).toEqual([0.5, 0.75]);
    expect(similarity).toBeCloseTo((1 + 2 / 3) / 2, 12);
  });
});
