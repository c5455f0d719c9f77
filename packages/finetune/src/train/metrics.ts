/**
 * Answer metrics: exact match, ANLS, ROUGE-L. Each compares an answer with its reference, from 0 to 1. Text only. A think block
 * in front of either is cut off first: what is compared are the answers.
 *
 * Not here: several references per question, stemming, judging by a model.
 */
import { splitThought } from '@minicpm-finetune/processor';

export interface AnswerMetrics {
  readonly exact_match: number;
  readonly anls: number;
  readonly rouge_l: number;
}

/** Below this similarity an answer counts as wrong, not as badly read (Biten et al., 2019). */
const ANLS_THRESHOLD = 0.5;

/** Scripts written without spaces: every character is a word of its own. */
const SINGLE =
  '[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Thai}\\p{Script=Lao}\\p{Script=Khmer}]';
const WORDS = new RegExp(`${SINGLE}|(?:(?!${SINGLE})[\\p{L}\\p{M}\\p{N}])+`, 'gu');

/** All metrics of one answer. */
export function answerMetrics(answer: string, reference: string): AnswerMetrics {
  return {
    exact_match: exactMatch(answer, reference),
    anls: anls(answer, reference),
    rouge_l: rougeL(answer, reference),
  };
}

/** The mean of each metric. */
export function meanMetrics(all: readonly AnswerMetrics[]): AnswerMetrics {
  const mean = (name: keyof AnswerMetrics): number => all.reduce((sum, one) => sum + one[name], 0) / all.length;
  return { exact_match: mean('exact_match'), anls: mean('anls'), rouge_l: mean('rouge_l') };
}

/** An answer without the thought in front of it. */
const spoken = (text: string): string => splitThought(text).answer;

/** 1 if the answers are the same, thoughts in front and white space at the ends aside. */
export function exactMatch(answer: string, reference: string): number {
  return spoken(answer).trim() === spoken(reference).trim() ? 1 : 0;
}

/**
 * Average Normalized Levenshtein Similarity of one answer (Biten et al., "Scene Text Visual Question Answering", 2019), with the
 * normalisation of DocVQA's evaluation: lower case, one space between words. 0 where more than half would have to be changed.
 */
export function anls(answer: string, reference: string): number {
  const [a, b] = [answer, reference].map((text) => [...spoken(text).toLowerCase().trim().split(/\s+/).join(' ')]);
  const longest = Math.max(a!.length, b!.length);
  if (longest === 0) return 1;
  const similarity = 1 - editDistance(a!, b!) / longest;
  return similarity > ANLS_THRESHOLD ? similarity : 0;
}

/**
 * ROUGE-L (Lin, 2004): F1 of the longest common subsequence of words, as `rouge_score` computes it without stemming. Its words are runs of
 * letters and digits in lower case; here of all scripts, and single characters in those without spaces (Chinese, Japanese, Thai, …).
 */
export function rougeL(answer: string, reference: string): number {
  const [a, b] = [words(spoken(answer)), words(spoken(reference))];
  if (a.length === 0 || b.length === 0) return 0;
  const common = commonSubsequence(a, b);
  return (2 * common) / (a.length + b.length);
}

/** Words as ROUGE-L counts them. */
export function words(text: string): string[] {
  return text.normalize('NFKC').toLowerCase().match(WORDS) ?? [];
}

/** Levenshtein distance: insertions, deletions and replacements, one each. */
function editDistance(a: readonly string[], b: readonly string[]): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, item] of a.entries()) {
    const next = [i + 1];
    for (const [j, other] of b.entries())
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (item === other ? 0 : 1)));
    row = next;
  }
  return row[b.length]!;
}

/** Length of the longest common subsequence. */
function commonSubsequence(a: readonly string[], b: readonly string[]): number {
  let row = new Array<number>(b.length + 1).fill(0);
  for (const item of a) {
    const next = [0];
    for (const [j, other] of b.entries()) next.push(item === other ? row[j]! + 1 : Math.max(row[j + 1]!, next[j]!));
    row = next;
  }
  return row[b.length]!;
}
