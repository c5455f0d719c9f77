/** An estimate in words: a table, its arithmetic, and one line. */
import { ENGLISH, formatBytes, formatCount, padEnd, padStart, type Say } from '@minicpm-finetune/run';
import { ERROR, type Estimate, type Line, type Term } from './estimate.js';

const GIB = 2 ** 30;
const inGiB = (bytes: number): string => (bytes === 0 ? '-' : (bytes / GIB).toFixed(bytes < GIB / 10 ? 3 : 2));

/** What the rows of the table are. */
const TITLES: Readonly<Record<string, string>> = {
  weights: 'weights',
  reference: 'reference (copy)',
  masters: 'float32 weights',
  moments: 'moments',
  gradients: 'gradients',
  activations: 'activations kept',
  computing: 'block being computed',
  batch: 'pictures and ids',
  communication: 'communication',
  context: 'device context',
  process: 'processes',
  loader: 'loader threads',
  staging: 'pinned batches',
};

const describeTerm = ({ what, count, bytes }: Term, say: Say): string => {
  const number = formatCount(Math.round(count));
  const each = bytes === 1 ? '' : ` x ${Number(bytes.toPrecision(4))} B`;
  return `${number} ${say(what)}${each}`;
};

/** The table for some numbers of devices in GiB, and how each figure of the last column is found. */
export function describeEstimates(estimates: readonly Estimate[], say: Say = ENGLISH): string[] {
  const first = estimates[0]!;
  const row = (title: string, cells: readonly string[]): string =>
    `  ${padEnd(say(title), 28)}${cells.map((cell) => padStart(cell, 9)).join('')}`;
  const rows = (of: 'device' | 'host' | 'disk'): string[] =>
    first[of]
      .map(({ category }, i) => ({ category, own: estimates.map((one) => one[of][i]!) }))
      .filter(({ own }) => own.some(({ bytes }) => bytes > 0))
      .map(({ category, own }) =>
        row(
          TITLES[category] ?? category,
          own.map(({ bytes }) => inGiB(bytes)),
        ),
      );
  return [
    say(
      `${formatCount(first.trainedNumbers)} of ${formatCount(first.totalNumbers)} parameters train; a micro-batch has at most ${first.tokens} tokens and ${first.pictures} pictures and slices`,
    ),
    row(
      'GiB per device',
      estimates.map(({ world }) => `x${world}`),
    ),
    row(
      'zero stage',
      estimates.map(({ stage }) => String(stage)),
    ),
    ...rows('device'),
    row(
      'all',
      estimates.map(({ deviceBytes }) => inGiB(deviceBytes)),
    ),
    row(
      'GiB per host',
      estimates.map(({ world }) => `x${world}`),
    ),
    ...rows('host'),
    row(
      'all',
      estimates.map(({ hostBytes }) => inGiB(hostBytes)),
    ),
    ...(estimates.every(({ diskBytes }) => diskBytes === 0)
      ? []
      : [
          row(
            'GiB of files per host',
            estimates.map(({ world }) => `x${world}`),
          ),
          ...rows('disk'),
          row(
            'all',
            estimates.map(({ diskBytes }) => inGiB(diskBytes)),
          ),
        ]),
    ...estimates.flatMap((one) => [
      say(`arithmetic for ${one.world} devices, most in the ${one.moment}:`),
      ...arithmetic(one, say),
    ]),
    say(`the estimate may be off by ${100 * ERROR} %; page cache of mapped weights is not counted on the host`),
  ];
}

function arithmetic({ device, host, disk }: Estimate, say: Say): string[] {
  return [...device, ...host, ...disk]
    .filter(({ bytes }) => bytes > 0)
    .map(({ category, bytes, terms }) => {
      const sum = terms.map((term) => describeTerm(term, say)).join(' + ');
      return `  ${padEnd(say(TITLES[category] ?? category), 28)}${padStart(formatBytes(bytes), 9)} = ${sum}`;
    });
}

const named = (lines: readonly Line[], category: string): number =>
  lines.find((line) => line.category === category)?.bytes ?? 0;

/** One line. */
export function summary(one: Estimate): string {
  const of = (category: string): number => named(one.device, category);
  const rest = one.deviceBytes - of('weights') - of('reference') - of('masters') - of('moments') - of('gradients');
  const states = formatBytes(of('masters') + of('moments'));
  const [all, weights, gradients] = [one.deviceBytes, of('weights'), of('gradients')].map(formatBytes);
  if (of('reference') > 0)
    return (
      `memory: about ${all} at most = weights ${weights} + reference ${formatBytes(of('reference'))} + gradients ${gradients} + ` +
      `optimizer ${states} + activations ${formatBytes(rest)}, in the ${one.moment}, for ${one.tokens} tokens and ${one.pictures} pictures at once`
    );
  return (
    `memory: about ${all} at most = weights ${weights} + gradients ${gradients} + ` +
    `optimizer ${states} + activations ${formatBytes(rest)}, in the ${one.moment}, for ${one.tokens} tokens and ${one.pictures} pictures at once`
  );
}
