/** A rank's part of a run: it joins and works. When it fails it tells its launcher and the other ranks. */
import { writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { asLost } from '../parallel/lost.js';
import { type JoinRanksOptions, joinRanks, type Place, type Ranks } from '../parallel/ranks.js';

export interface MemberOptions extends JoinRanksOptions {
  /** What an error is printed as, and the exit code that it means. */
  readonly printed: (error: unknown) => { readonly text: string; readonly code: number };
}

/** How the work of a rank speaks to its launcher. */
export interface Member {
  readonly ranks: Ranks;
  /** Tells the launcher which run folder there is now: it puts the logs of the other ranks there. */
  folder(path: string): void;
}

/** How long an error that follows from another rank's waits for that rank's own, with which the watchdog ends this process, in milliseconds. */
const AFTER_OTHERS = 2000;
/** Errors that follow from another rank's: of the group, and those that the work handed from rank to rank. */
const FOLLOWS = /its connection is closed|^Rank \d+ on |connection (was )?(closed|reset)|Broken pipe/i;

/** Does the work of a rank. What it throws is told to the others first, so that they end, and print it. */
export async function asMember<T>(
  place: Place,
  options: MemberOptions,
  work: (member: Member) => Promise<T>,
): Promise<T> {
  const tell = (kind: string, text: string, code = 0, consequence = false): void => {
    if (place.launcher !== undefined)
      writeSync(place.launcher, `${JSON.stringify({ kind, text, code, consequence })}\n`);
  };
  const told = (error: unknown, consequence: boolean): void => {
    const { text, code } = options.printed(error);
    tell('failed', text, code, consequence);
  };
  let ranks: Ranks;
  try {
    ranks = await joinRanks(place, options);
  } catch (error) {
    told(error, false);
    throw error;
  }
  try {
    const result = await work({ ranks, folder: (path) => tell('folder', path) });
    ranks[Symbol.dispose]();
    return result;
  } catch (cause) {
    const error = asLost(cause, ranks.silent);
    const follows = error instanceof Error && FOLLOWS.test(error.message);
    if (follows) await sleep(AFTER_OTHERS);
    const { text, code } = options.printed(error);
    const first = ranks.fail(text, code);
    told(error, follows || !first);
    ranks[Symbol.dispose]();
    throw error;
  }
}
