/** Results of all records in order, a few at a time. */
import type { EncodePool } from './encode-pool.js';
import type { Outcome, TaskName, TaskResults } from './encode-task.js';

/** Index and outcome of each of `records` records; `ahead` of them are under way at a time. */
export async function* inOrder<Name extends TaskName>(
  pool: EncodePool<Name>,
  records: number,
  ahead: number,
): AsyncGenerator<[number, Outcome<TaskResults[Name]>]> {
  const queue: Promise<Outcome<TaskResults[Name]>>[] = [];
  for (let index = 0; index < records; index++) {
    while (queue.length < ahead && index + queue.length < records) {
      const outcome = pool.run(index + queue.length);
      outcome.catch(() => {}); // reported when its turn comes
      queue.push(outcome);
    }
    yield [index, await queue.shift()!];
  }
}
