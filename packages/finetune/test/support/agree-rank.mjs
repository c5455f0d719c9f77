/** One rank that agrees with others, under test: `node agree-rank.mjs`. It prints JSON lines. */
import { UserError } from '@minicpm-finetune/run';
import * as agree from '../../dist/parallel/agree.js';
import { joinRanks } from '../../dist/parallel/ranks.js';

const rank = Number(process.env.RANK);
const size = Number(process.env.WORLD_SIZE);
const say = (value) => console.log(JSON.stringify(value));
const place = {
  rank,
  size,
  localRank: rank,
  localSize: size,
  masterAddr: '127.0.0.1',
  masterPort: Number(process.env.MASTER_PORT),
};
const ranks = await joinRanks(
  { ...place, ...(rank === 0 && { listening: 3 }) },
  { timeout: 60_000, notice() {}, facts: { equal: {} } },
);
// As if the ranks were on two machines.
Object.assign(ranks, { localRank: rank % 2, localSize: 2 });
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Says how an agreement ended. */
async function outcome(work) {
  try {
    say({ value: await work() });
  } catch (error) {
    say({
      user: error instanceof UserError,
      message: error.message,
      ...(error instanceof UserError && error.details()),
    });
  }
}

const long = '微调 text, '.repeat(60_000 + rank); // more than one message
const texts = agree.exchangeTexts(ranks.group, rank === 1 ? '' : long, 'texts');
say({ same: texts.map((text, r) => text === (r === 1 ? '' : '微调 text, '.repeat(60_000 + r))) });
say(
  agree
    .exchangeLists(
      ranks.group,
      Array.from({ length: rank * 2 }, (_, i) => i + rank / 2),
      'lists',
    )
    .map((list) => [...list]),
);

await outcome(() => agree.agree(ranks, 'all', () => rank));
await outcome(() =>
  agree.agree(ranks, 'one fails', async () => {
    await sleep(50 * rank);
    if (rank === 1)
      throw new UserError('Expected a file but received none.', { file: 'a.json', record: 7, cure: 'Give one.' });
    return rank;
  }),
);
await outcome(() =>
  agree.agree(ranks, 'two fail', () => {
    if (rank > 0) throw new Error(`broken ${rank}`);
  }),
);
await outcome(() => agree.settle(ranks, 'at once', rank === 2 ? { error: new Error('late') } : { value: 'mine' }));
await outcome(() => agree.fromFirst(ranks, 'first', () => ({ from: rank, text: '微调' })));
await outcome(() => agree.fromFirst(ranks, 'none', () => undefined));
await outcome(() =>
  agree.fromFirstAsync(ranks, 'first fails', async () => {
    throw new UserError('Expected room on the disk but received none.', { flag: '--output_dir' });
  }),
);

await outcome(() =>
  agree.firstOfMachine(ranks, 'machine', async () => {
    await sleep(20);
    return `by ${rank}`;
  }),
);
ranks[Symbol.dispose]();
