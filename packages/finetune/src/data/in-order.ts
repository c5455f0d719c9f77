/** Results of records in order, a few at a time. */
import type { EncodePool } from './encode-pool.js';
import type { Outcome, TaskName, TaskResults } from './encode-task.js';

/** A record, or first record and number of records. */
export type Range = readonly [first: number, count: number];

/** Each of `ranges` and its outcome; `ahead` of them are under way at a time. */
export async function* inOrder<Name extends TaskName>(
  pool: EncodePool<Name>,
  ranges: Iterable<Range>,
  ahead: number,
): AsyncGenerator<[Range, Outcome<TaskResults[Name]>]> {
  const queue: { range: Range; outcome: Promise<Outcome<TaskResults[Name]>> }[] = [];
  const next = ranges[Symbol.iterator]();
  for (;;) {
    while (queue.length < ahead) {
      const { value: range, done } = next.next();
      if (done) break;
      const outcome = pool.run(...range);
      outcome.catch(() => {}); // reported when its turn comes
      queue.push({ range, outcome });
    }
    const first = queue.shift();
    if (!first) return;
    yield [first.range, await first.outcome];
  }
}

/** Each of `count` records by itself. */
export function* eachOf(count: number): Generator<Range> {
  for (let index = 0; index < count; index++) yield [index, 1];
}
