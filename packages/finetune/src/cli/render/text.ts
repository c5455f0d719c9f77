/**
 * A rendered record as text. One line per run of tokens of one kind, tokens separated by "|", supervised tokens marked
 * and (on a terminal) coloured. Two encodings of a record are shown as their difference.
 */
import { ENGLISH, type Say } from '@minicpm-finetune/run';
import type { RenderedSample, RenderedToken, RenderRole } from './render.js';
import { type DiffRun, diff } from './token-diff.js';

const RESET = '\u001b[0m';
const COLOURS: Readonly<Record<RenderRole, string>> = {
  system: '\u001b[35m',
  user: '\u001b[36m',
  assistant: '\u001b[33m',
};
const LEARNED = '\u001b[1;32m';
const IMAGE = '\u001b[2m';

/** A legend for the lines of `formatRendered`. */
export const LEGEND =
  'tokens  role  * = learned  |text of each token|  (⇒x: learns to produce x here, not the token itself)';

/** All of a sample. `colour`: with terminal colours. */
export function formatRendered(rendered: RenderedSample, colour: boolean, say: Say = ENGLISH): string[] {
  return [
    say(summaryLine(rendered)),
    ...rendered.notices.map((notice) => say(`notice: ${notice}`)),
    ...lines(rendered.tokens, '  ', colour, say),
  ];
}

/** The difference of two encodings of one record: lines with "-" are the first's, lines with "+" the second's. */
export function formatDifference(
  first: RenderedSample,
  second: RenderedSample,
  colour: boolean,
  say: Say = ENGLISH,
): string[] {
  const runs = diff(first.tokens, second.tokens, tokenKey);
  const same = runs.every(({ kind }) => kind === 'both');
  const pixels = samePixels(first, second) ? 'the same pixels' : 'other pixels';
  return [
    `- ${say(summaryLine(first))}`,
    `+ ${say(summaryLine(second))}`,
    say(same ? `No difference: the same tokens, all learned alike, ${pixels}.` : `Differences (${pixels}):`),
    ...(same ? [] : runs.flatMap((run) => differenceLines(run, colour, say))),
  ];
}

const SIGNS = { both: ' ', first: '-', second: '+' } as const;

function differenceLines(run: DiffRun<RenderedToken>, colour: boolean, say: Say): string[] {
  const all = lines(run.items, `${SIGNS[run.kind]} `, colour, say);
  if (run.kind !== 'both' || all.length <= 3) return all;
  return [all[0]!, '  …', all.at(-1)!];
}

/** The identity of a token for the model: its text, and what is learned in its place. */
function tokenKey({ text, image, supervised, learned }: RenderedToken): string {
  return JSON.stringify([text, image, supervised, learned ?? null]);
}

function samePixels({ sample: a }: RenderedSample, { sample: b }: RenderedSample): boolean {
  return (
    a.pictures.length === b.pictures.length &&
    a.pictures.every(({ pixels }, i) => Buffer.compare(pixels, b.pictures[i]!.pixels) === 0)
  );
}

function summaryLine({ compat, sample, tokens, shownImages, shownVideos }: RenderedSample): string {
  const learned = tokens.filter(({ supervised }) => supervised).length;
  const sizes = shownImages.map(({ grid }) => (grid ? `1 + ${grid.columns}x${grid.rows}` : '1'));
  for (const { frames } of shownVideos) sizes.push(`${frames.length} frames`);
  const pictures =
    sample.pictures.length === 0 ? 'no pictures' : `${sample.pictures.length} pictures (${sizes.join(', ')})`;
  return `--compat ${compat}: ${sample.inputIds.length} tokens, ${learned} learned, ${pictures}`;
}

/** One line per stretch of neighbours that have role, kind and supervision in common. */
function lines(tokens: readonly RenderedToken[], prefix: string, colour: boolean, say: Say): string[] {
  const runs: RenderedToken[][] = [];
  for (const token of tokens) {
    const last = runs.at(-1)?.at(-1);
    if (last && last.role === token.role && last.image === token.image && last.supervised === token.supervised)
      runs.at(-1)!.push(token);
    else runs.push([token]);
  }
  return runs.map((run) => prefix + runLine(run, colour, say));
}

function runLine(run: readonly RenderedToken[], colour: boolean, say: Say): string {
  const { role, image, supervised, index } = run[0]!;
  const range = `${index}-${run.at(-1)!.index}`;
  const text = image ? say(`[${run.length} features of a picture]`) : `|${run.map(tokenText).join('|')}|`;
  const line = `${range.padEnd(9)} ${role.padEnd(9)} ${supervised ? '*' : ' '} `;
  if (!colour) return line + text;
  const code = image ? IMAGE : supervised ? LEARNED : COLOURS[role];
  return `${code}${line}${text}${RESET}`;
}

function tokenText({ text, learned }: RenderedToken): string {
  const shown = text.replaceAll('\n', '\\n').replaceAll('\t', '\\t').replaceAll('\r', '\\r');
  return learned === undefined ? shown : `${shown}⇒${learned}`;
}
