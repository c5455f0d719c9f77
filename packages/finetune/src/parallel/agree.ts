/**
 * What ranks tell one another beside tensors. Texts, decisions, failures. Every function is collective: all ranks call it, in
 * the same order, with the same label. Alone, a rank hears itself.
 */
import { UserError, type UserErrorData } from '@minicpm-finetune/run';
import type { Group } from '@minicpm-finetune/torch';
import type { Ranks } from './ranks.js';

/** What came of a piece of work on this rank. */
export type Attempt<T> = { readonly value: T } | { readonly error: unknown };

/** Most numbers of one message. */
const MOST_NUMBERS = 1 << 16;
/** Bytes of a text in one number: float64 holds integers of 53 bits exactly. */
const BYTES = 6;
/** Milliseconds after which a rank that still works says so: nobody waits longer for it in one operation. */
const BEAT = 10_000;

const WORKING = 0;
const DONE = 1;
const FAILED = 2;

/** A failure as the other ranks hear of it. */
interface Failure {
  readonly host: string;
  /** null: it is no mistake of the user's. */
  readonly user: UserErrorData | null;
  readonly message: string;
}

/** The numbers of every rank, by rank; each gives as many as it has. */
export function exchangeLists(group: Group, own: ArrayLike<number>, label: string): Float64Array[] {
  const lengths = group.exchange([own.length], label).map(([length]) => length!);
  const lists = lengths.map((length) => new Float64Array(length));
  const longest = Math.max(...lengths);
  for (let start = 0; start < longest; start += MOST_NUMBERS) {
    const count = Math.min(MOST_NUMBERS, longest - start);
    const part = Array.from({ length: count }, (_, i) => own[start + i] ?? 0);
    for (const [rank, numbers] of group.exchange(part, label).entries()) {
      const left = lengths[rank]! - start;
      if (left > 0) lists[rank]!.set(numbers.subarray(0, left), start);
    }
  }
  return lists;
}

/** The texts of every rank, by rank. */
export function exchangeTexts(group: Group, text: string, label: string): string[] {
  const bytes = Buffer.from(text);
  const numbers = [bytes.length];
  for (let at = 0; at < bytes.length; at += BYTES)
    numbers.push(bytes.readUIntLE(at, Math.min(BYTES, bytes.length - at)));
  return exchangeLists(group, numbers, label).map(textOf);
}

function textOf(numbers: Float64Array): string {
  const bytes = Buffer.alloc(numbers[0]!);
  for (let at = 0, i = 1; at < bytes.length; at += BYTES, i++)
    bytes.writeUIntLE(numbers[i]!, at, Math.min(BYTES, bytes.length - at));
  return bytes.toString();
}

/** Does work; what it throws is its outcome. */
export function attempt<T>(work: () => T): Attempt<T> {
  try {
    return { value: work() };
  } catch (error) {
    return { error };
  }
}

/** The same for work that takes its time. */
export async function attempted<T>(work: () => T | Promise<T>): Promise<Attempt<T>> {
  try {
    return { value: await work() };
  } catch (error) {
    return { error };
  }
}

/**
 * The value of this rank's work, if all ranks have done theirs.
 *
 * @throws this rank's own error; or else, as a `UserError` if it is one, that of the lowest rank that failed, with its rank and host
 */
export function settle<T>(ranks: Ranks, label: string, own: Attempt<T>): T {
  const failed = ranks.group.exchange(['error' in own ? 1 : 0], label);
  if (failed.some(([flag]) => flag === 1)) throw failureOf(ranks, label, own);
  return (own as { value: T }).value;
}

/** What this rank throws where `own` or another rank's work failed. */
export function failureOf(ranks: Ranks, label: string, own: Attempt<unknown>): unknown {
  const texts = exchangeTexts(ranks.group, 'error' in own ? told(ranks.host, own.error) : '', label);
  if ('error' in own) return own.error;
  const rank = texts.findIndex((text) => text !== '');
  const { host, user, message } = JSON.parse(texts[rank]!) as Failure;
  const where = `${rankName(rank, host)}: ${message}`;
  return user === null ? new Error(where) : new UserError(where, user);
}

/** `Rank 1 on host b`: how messages name a process. */
export function rankName(rank: number, host: string): string {
  return `Rank ${rank} on ${host}`;
}

function told(host: string, error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return JSON.stringify({ host, user: error instanceof UserError ? error.toData() : null, message } satisfies Failure);
}

/**
 * Work that every rank does, however long it takes on some. Returns this rank's value when all ranks are done.
 *
 * @param undo is given this rank's value where another rank failed
 * @throws as `settle` does
 */
export async function agree<T>(
  ranks: Ranks,
  label: string,
  work: () => T | Promise<T>,
  undo: (value: T) => void | Promise<void> = () => {},
): Promise<T> {
  ranks.at(label);
  const own = attempted(work);
  for (;;) {
    const outcome = await within(own, BEAT);
    const state = outcome === null ? WORKING : 'error' in outcome ? FAILED : DONE;
    const states = ranks.group.exchange([state], label).map(([other]) => other!);
    if (states.includes(WORKING)) continue;
    if (!states.includes(FAILED)) return (outcome as { value: T }).value;
    if ('value' in outcome!) await undo(outcome.value);
    throw failureOf(ranks, label, outcome!);
  }
}

/** The value of a promise if it comes within so many milliseconds, else null. */
async function within<T>(promise: Promise<T>, milliseconds: number): Promise<T | null> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<null>((resolve) => {
    timer = setTimeout(resolve, milliseconds, null);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Work that rank 0 does for all. What it returns crosses as JSON.
 *
 * @throws rank 0's error, on all ranks
 */
export function fromFirst<T>(ranks: Ranks, label: string, work: () => T): T {
  const own: Attempt<T | null> = ranks.rank === 0 ? attempt(work) : { value: null };
  return toldByFirst(ranks, label, settle(ranks, label, own));
}

/** The same for work that takes its time. */
export async function fromFirstAsync<T>(ranks: Ranks, label: string, work: () => Promise<T>): Promise<T> {
  return toldByFirst(ranks, label, await agree<T | null>(ranks, label, () => (ranks.rank === 0 ? work() : null)));
}

/** The value of rank 0, on all ranks; undefined is none. */
function toldByFirst<T>({ rank, group }: Ranks, label: string, value: T | null): T {
  const texts = exchangeTexts(group, rank === 0 ? JSON.stringify({ value }) : '', label);
  return rank === 0 ? (value as T) : (JSON.parse(texts[0]!) as { value: T }).value;
}

/**
 * Work that every rank does, but first one of each machine: what that leaves in the machine's cache, the others find there.
 *
 * @throws as `settle` does
 */
export async function firstOfMachine<T>(ranks: Ranks, label: string, work: () => T | Promise<T>): Promise<T> {
  const first = await agree(ranks, label, () => (ranks.localRank === 0 ? work() : undefined));
  return await agree(ranks, label, () => (ranks.localRank === 0 ? (first as T) : work()));
}
