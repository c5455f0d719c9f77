/** The report of check-data as text. The numbers come from check-data.ts. */
import { counted, displayWidth, ENGLISH, padStart, type Say, UserError } from '@minicpm-finetune/run';
import { notesOf } from '../../data/traits.js';
import type { CheckReport, Distribution, RecordFinding } from './check-data.js';

/** The report in lines, without a trailing newline; of errors and warnings the first `shown` each. */
export function formatReport(report: CheckReport, shown: number, say: Say = ENGLISH): string {
  const { errors, warnings } = report;
  return [
    ...report.files.map(({ path, description }) => `${path}: ${say(description)}`),
    say(headline(report)),
    ...(report.tokens ? [...lengths(report, report.tokens, say), ...images(report, say)] : []),
    ...notes(report, say),
    ...findings('warning', warnings, shown, say),
    ...findings('error', errors, shown, say),
  ].join('\n');
}

function headline({ records, errors, warnings, images, seconds }: CheckReport): string {
  const rate = (count: number) => Math.round(count / seconds);
  const speed = `${seconds.toFixed(1)} s (${rate(records)} records/s${images > 0 ? `, ${rate(images)} images/s` : ''})`;
  return `${counted(records, 'record')} checked in ${speed}: ${counted(errors.length, 'error')}, ${counted(warnings.length, 'warning')}`;
}

function lengths(report: CheckReport, tokens: Distribution, say: Say): string[] {
  const { min, median, mean, p90, p99, max } = tokens;
  const { model_max_length, too_long, suggested_model_max_length } = report;
  const sound = report.records - report.errors.length;
  const tooLong =
    too_long === 0
      ? 'holds every record'
      : `is too short for ${counted(too_long, 'record')} (${percent(too_long / sound)})`;
  return [
    '',
    say(
      `Tokens per record: min ${min}, median ${median}, mean ${mean.toFixed(0)}, 90 % up to ${p90}, 99 % up to ${p99}, max ${max}`,
    ),
    ...bars(tokens.histogram.map(({ from, to, count }) => [say(`${from} to ${to - 1}`), count])),
    say(`Supervised (what the model learns to produce): ${percent(report.supervised_share ?? 0)} of the tokens`),
    say(`--model_max_length ${model_max_length} ${tooLong}; suggested: ${suggested_model_max_length}`),
    ...(report.answers ? answers(report.answers, say) : []),
  ];
}

/** Pairs whose better answers are mostly the longer ones teach length. */
const BIASED = 0.7;
const LONGER =
  'The model may learn to answer longer instead of better: compare with --preference simpo or ipo, which count by token.';
const SHORTER =
  'The model may learn to answer shorter instead of better: compare with --preference simpo or ipo, which count by token.';

function answers(found: NonNullable<CheckReport['answers']>, say: Say): string[] {
  const {
    records,
    mean_chosen: chosen,
    mean_rejected: rejected,
    chosen_longer: longer,
    rejected_longer: shorter,
  } = found;
  const line = `${counted(records, 'pair')}: chosen answers have ${chosen.toFixed(1)} tokens on average, rejected ones ${rejected.toFixed(1)}; the chosen one is longer in ${percent(longer)}, the rejected one in ${percent(shorter)}`;
  return [say(line), ...(longer > BIASED ? [say(LONGER)] : []), ...(shorter > BIASED ? [say(SHORTER)] : [])];
}

function images(report: CheckReport, say: Say): string[] {
  const { images: count, videos, frames, text_only, slices_per_image } = report;
  const textOnly = text_only > 0 ? `, ${counted(text_only, 'text-only record')}` : '';
  const shown = videos === 0 ? [] : ['', say(`Videos: ${videos}, frames: ${frames}`)];
  if (count === 0) return videos === 0 ? ['', say(`No images${textOnly}`)] : shown;
  return [
    ...shown,
    '',
    say(`${counted(count, 'image')}${textOnly}; slices per image beside its overview:`),
    ...bars(Object.entries(slices_per_image).map(([slices, number]) => [slices, number])),
  ];
}

function notes({ notes: files }: CheckReport, say: Say): string[] {
  const lines = files.flatMap(notesOf).map((line) => say(line));
  return lines.length === 0 ? [] : ['', ...lines];
}

const BAR_WIDTH = 40;

function bars(rows: readonly (readonly [label: string, count: number])[]): string[] {
  const most = Math.max(...rows.map(([, count]) => count));
  const width = Math.max(...rows.map(([label]) => displayWidth(label)));
  return rows.map(
    ([label, count]) =>
      `  ${padStart(label, width)}  ${'#'.repeat(Math.ceil((count / most) * BAR_WIDTH)).padEnd(BAR_WIDTH)}  ${count}`,
  );
}

function findings(kind: 'error' | 'warning', all: readonly RecordFinding[], shown: number, say: Say): string[] {
  const named = kind === 'error' ? firstOfKeys(all) : all;
  const lines = named.slice(0, shown).map((finding) => new UserError(finding.message, finding).format(say, kind));
  const more = all.length - lines.length;
  if (more > 0) lines.push(say(`… and ${counted(more, `more ${kind}`)}; --json lists all of them`));
  return lines.length === 0 ? [] : ['', ...lines];
}

/** Errors without those for a key for which a record of the same file is refused before. */
function firstOfKeys(errors: readonly RecordFinding[]): RecordFinding[] {
  const said = new Set<string>();
  return errors.filter(({ file, key }) => {
    const name = JSON.stringify([file, key]);
    if (key === undefined) return true;
    return !said.has(name) && said.add(name);
  });
}

function percent(share: number): string {
  return `${Number((share * 100).toPrecision(3))} %`;
}
