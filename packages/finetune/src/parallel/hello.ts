/**
 * The first words of the processes of a run. In the store: who they are and what they are about to do. What has to be equal is compared
 * before any of them computes, so that a difference is an error that names it and not a run that hangs.
 */
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { UserError } from '@minicpm-finetune/run';
import type { Store } from '@minicpm-finetune/torch';

/** What has to be equal on all ranks, by the name that a message has for it: versions, values of flags. */
export interface Facts {
  readonly equal: Readonly<Record<string, unknown>>;
  /** What is said, and no error, where it differs. */
  readonly alike?: Readonly<Record<string, unknown>>;
}

/** A process as the others hear of it. */
interface Hello extends Facts {
  readonly rank: number;
  readonly size: number;
  readonly host: string;
  readonly pid: number;
}

export interface HelloOptions {
  readonly rank: number;
  readonly size: number;
  readonly prefix: string;
  /** How long to wait for all, in milliseconds. */
  readonly limit: number;
  readonly notice: (line: string) => void;
  readonly facts: Facts;
  /** Whether this process serves the store: it stays until the others have read what is wrong. */
  readonly server: boolean;
}

const POLL = 50;
const BETWEEN_LINES = 5000;
/** How long who serves the store stays after an error, in milliseconds. */
const STAY = 5000;
const SHOWN = 3;

/**
 * Returns when all ranks have said the same: the name of each one's machine, by rank.
 *
 * @throws UserError, on all ranks that have come, that names rank and difference; when not all come in time
 */
export async function compareFacts(store: Store, options: HelloOptions): Promise<string[]> {
  const { rank, size, prefix, limit, notice, facts, server } = options;
  const said: Hello = { rank, size, host: hostname(), pid: process.pid, ...facts };
  const own = store.add(`${prefix}hello/count`, 1);
  store.set(`${prefix}hello/${own}`, JSON.stringify(said));
  const started = performance.now();
  for (let lines = 0; ; ) {
    const all = heard(store, prefix);
    const error = difference(all);
    if (error !== null) {
      store.add(`${prefix}hello/told`, 1);
      if (server) await untilTold(store, prefix);
      throw error;
    }
    if (all.length === size) {
      if (rank === 0) for (const line of unlike(all)) notice(line);
      return all.toSorted((a, b) => a.rank - b.rank).map(({ host }) => host);
    }
    const waited = performance.now() - started;
    const missing = missingRanks(all, size);
    if (waited > limit) throw tooLate(missing, size, limit);
    if (waited >= (lines + 1) * BETWEEN_LINES) {
      lines += 1;
      notice(
        `Rank ${rank} waits for ${missing} of ${size} since ${lines * 5} s, at most ${Math.round(limit / 1000)} s.`,
      );
    }
    await sleep(POLL);
  }
}

/** Who has come, in the order in which they came. */
function heard(store: Store, prefix: string): Hello[] {
  const all: Hello[] = [];
  for (let i = 1, count = store.add(`${prefix}hello/count`, 0); i <= count; i++) {
    const text = store.get(`${prefix}hello/${i}`);
    if (text !== undefined) all.push(JSON.parse(text) as Hello);
  }
  return all;
}

async function untilTold(store: Store, prefix: string): Promise<void> {
  const end = performance.now() + STAY;
  const left = (): number => store.add(`${prefix}hello/count`, 0) - store.add(`${prefix}hello/told`, 0);
  while (left() > 0 && performance.now() < end) await sleep(POLL);
}

/** What is wrong with those who have come, as compared with the lowest rank of them; null: nothing. */
function difference(all: readonly Hello[]): UserError | null {
  const first = all.toSorted((a, b) => a.rank - b.rank)[0];
  for (const [i, one] of all.entries()) {
    const twin = all.slice(0, i).find(({ rank }) => rank === one.rank);
    if (twin !== undefined) return givenTwice(twin, one);
    if (one.size !== first!.size) return otherSize(first!, one);
    const found = differing(first!.equal, one.equal);
    if (found.length > 0) return otherFacts(first!, one, found);
  }
  return null;
}

function differing(a: Readonly<Record<string, unknown>>, b: Readonly<Record<string, unknown>>): string[] {
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])];
  return names.filter((name) => JSON.stringify(a[name]) !== JSON.stringify(b[name]));
}

function givenTwice(one: Hello, other: Hello): UserError {
  return new UserError(
    `Expected each rank once but rank ${one.rank} was given to process ${one.pid} on ${one.host} and to process ${other.pid} on ${other.host}.`,
    {
      flag: '--node_rank',
      cure: 'Give each machine a --node_rank of its own, and end what is left of an earlier run.',
    },
  );
}

function otherSize(one: Hello, other: Hello): UserError {
  return new UserError(
    `Expected one number of processes on all ranks but it is ${one.size} on ${named(one)} and ${other.size} on ${named(other)}.`,
    { flag: '--nnodes', cure: 'Give all machines the same --nnodes and --nproc_per_node.' },
  );
}

function otherFacts(one: Hello, other: Hello, names: readonly string[]): UserError {
  const shown = names.slice(0, SHOWN).map((name) => `${name} is ${text(one, name)} and ${text(other, name)}`);
  const more = names.length > SHOWN ? `; and ${names.length - SHOWN} more` : '';
  return new UserError(`Expected the same on ${named(one)} and ${named(other)} but ${shown.join('; ')}${more}.`, {
    cure: 'Give all ranks the same flags, files and versions.',
  });
}

const named = ({ rank, host }: Hello): string => `rank ${rank} (${host})`;
const text = ({ equal }: Hello, name: string): string => JSON.stringify(equal[name]) ?? 'not there';

/** One line for each fact that may differ and does. */
function unlike(all: readonly Hello[]): string[] {
  const first = all.find(({ rank }) => rank === 0)!;
  return all.flatMap((one) =>
    differing(first.alike ?? {}, one.alike ?? {}).map(
      (name) =>
        `${name} is ${JSON.stringify(first.alike?.[name])} on ${named(first)} and ${JSON.stringify(one.alike?.[name])} on ${named(one)}: numbers may differ in their last bits from those of equal machines.`,
    ),
  );
}

function missingRanks(all: readonly Hello[], size: number): string {
  const come = new Set(all.map(({ rank }) => rank));
  const missing = Array.from({ length: size }, (_, rank) => rank).filter((rank) => !come.has(rank));
  return `${missing.length === 1 ? 'rank' : 'ranks'} ${missing.join(', ')}`;
}

function tooLate(missing: string, size: number, limit: number): UserError {
  return new UserError(`Expected ${size} processes within ${Math.round(limit / 1000)} s but ${missing} did not come.`, {
    flag: '--nnodes',
    cure: 'Start the command on all machines, and look there for what ended it.',
  });
}
