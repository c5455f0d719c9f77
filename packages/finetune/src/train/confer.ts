/** What ranks say between two pieces of work. Failures, numbers, bad records, and what rank 0 should tell. */
import { UserError } from '@minicpm-finetune/run';
import type { BadRecords, FoundBad } from '../data/bad-records.js';
import { type Attempt, attempt, exchangeTexts, failureOf, rankName } from '../parallel/agree.js';
import type { Ranks } from '../parallel/ranks.js';
import type { Mail } from '../report/outbox.js';
import type { RunLog } from '../report/run-log.js';

/** Who confers, and where it is said. */
interface Speaker {
  readonly ranks: Ranks;
  readonly log: RunLog;
}

/** What a rank says beside numbers. */
interface Letter {
  readonly host: string;
  readonly mail: readonly Mail[];
  readonly found: readonly FoundBad[];
}

/** What came of a piece of work: here, and the numbers of every rank, by rank. */
export interface Conference<T> {
  readonly value: T;
  readonly numbers: readonly Float64Array[];
}

/**
 * Tells the other ranks how a piece of work went here, and hears how it went there. Bad records that any rank found are known to all then.
 *
 * @param numbers of this rank, equally many on all; they count only where the work succeeded on all ranks
 * @throws the failure of this or of another rank; on all ranks
 */
export function confer<T>(
  { ranks, log }: Speaker,
  { label, bad }: { readonly label: string; readonly bad: BadRecords },
  own: Attempt<T>,
  numbers: readonly number[],
): Conference<T> {
  const letter: Letter = { host: ranks.host, mail: log.takeMail(), found: bad.takeFound() };
  const failed = 'error' in own;
  const amount = letter.mail.length + letter.found.length;
  const all = ranks.group.exchange([failed ? 1 : 0, amount, ...numbers], label);
  const read = attempt(() => {
    if (all.some(([, others]) => others! > 0)) exchangeLetters({ ranks, log }, letter, bad, label);
  });
  if (all.some(([flag]) => flag === 1)) throw failureOf(ranks, label, own);
  if ('error' in read) throw read.error;
  return { value: (own as { value: T }).value, numbers: all.map((one) => one.subarray(2)) };
}

/** Reads what every rank wrote. Throws where there are too many bad records now: on all ranks alike. */
function exchangeLetters({ ranks, log }: Speaker, letter: Letter, bad: BadRecords, label: string): void {
  const letters = exchangeTexts(ranks.group, JSON.stringify(letter), label).map((text) => JSON.parse(text) as Letter);
  for (const [rank, { host, mail }] of letters.entries()) log.hear(mail, rankName(rank, host));
  for (const [rank, { found }] of letters.entries()) {
    if (rank === ranks.rank) continue;
    for (const { index, error } of found) bad.add(index, UserError.fromData(error));
  }
  bad.takeFound(); // all ranks have heard of them
}
