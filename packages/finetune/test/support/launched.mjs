/**
 * A program that starts as `train` does and works as a rank under test: `node launched.mjs MODE [--flag value …]`. Rank r works as the mode says and
 * prints JSON lines.
 */
import { spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import { OwnFiles, UserError } from '@minicpm-finetune/run';
import { sayChinese } from '@minicpm-finetune/run/messages';
import { ops } from '@minicpm-finetune/torch';
import { printedError } from '../../dist/cli/exit.js';
import { launch } from '../../dist/launch/launcher.js';
import { asMember } from '../../dist/launch/member.js';
import { placeFromEnvironment } from '../../dist/launch/place.js';

const text = { type: 'string' };
const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: Object.fromEntries(
    'nproc_per_node nnodes node_rank master_addr master_port fact joinTimeout timeout patience interval folder stop lang'
      .split(' ')
      .map((name) => [name, text]),
  ),
});
const [mode] = positionals;
const number = (name, usual = null) => (values[name] === undefined ? usual : Number(values[name]));
const say = (value) => console.log(JSON.stringify(value));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
/** Blocks the process, as native code does. */
const block = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

const WORK = {
  meet: ({ rank, size, localRank, localSize, group }) =>
    say({ rank, size, localRank, localSize, sum: group.sum([rank + 1], 'sum') }),
  /** Rank 1 fails while the others wait for it. */
  fails: ({ rank, group }) => {
    if (rank === 1) throw new UserError('Expected data for rank 1 but received none.', { cure: 'Give them.' });
    group.barrier('step 3');
  },
  /** Rank 1 fails; the others are in long calls that no error interrupts. */
  blocked: async ({ rank, group }) => {
    group.barrier('start');
    if (rank !== 1) block(60_000);
    await sleep(300);
    throw new UserError('Expected a record but received none.');
  },
  /** Rank 1 is killed; the others wait for it. */
  dies: ({ rank, group }) => {
    group.barrier('start');
    if (rank === 1) process.kill(process.pid, 'SIGKILL');
    group.barrier('step 3');
  },
  /** Rank 1 has no memory for a tensor; the others wait for it. */
  memory: ({ rank, group }) => {
    group.barrier('start');
    if (rank === 1) {
      const { status } = spawnSync('prlimit', ['--pid', String(process.pid), `--as=${32 * 2 ** 30}`]);
      if (status !== 0) throw new Error('prlimit failed');
      ops.zeros([2 ** 34]);
    }
    group.barrier('step 3');
  },
  aborts: ({ rank, group }) => {
    group.barrier('start');
    if (rank === 1) {
      console.error('out of something');
      process.abort();
    }
    group.barrier('step 3');
  },
  /** Waits until it is killed, natively: rank 1 says nothing. */
  hangs: async ({ rank, group, at }) => {
    group.barrier('start');
    say({ pid: process.pid, rank });
    at(`step 12, record train.json:88${rank}`);
    if (rank === 1) block(60_000);
    group.barrier('llm.model.layers.4');
  },
  /** Rank 1 stops as soon as all have met: of it the others know that and no more. */
  stops: ({ rank, group }) => {
    group.barrier('start');
    if (rank === 1) process.kill(process.pid, 'SIGSTOP');
    group.barrier('step 1');
  },
  slow: async (ranks) => {
    ranks.group.barrier('start');
    ranks.at(`step 12, record train.json:88${ranks.rank}`);
    if (ranks.rank === 1) await sleep(number('stop'));
    ranks.group.barrier('llm.model.layers.4');
  },
  prints: async ({ rank }, member) => {
    console.error(`before, of rank ${rank}`);
    if (rank === 0) {
      new OwnFiles(values.folder).open();
      member.folder(values.folder);
    }
    const split = Buffer.from(`after, 进程 ${rank}\n`); // a character may come in two parts
    process.stderr.write(split.subarray(0, 8));
    await sleep(500);
    process.stderr.write(split.subarray(8));
  },
  signals: async ({ rank, group }) => {
    let came = 0;
    process.on('SIGTERM', () => (came += 1));
    group.barrier('all listen');
    say({ rank, pid: process.pid });
    while (came === 0) await sleep(10);
    await sleep(300);
    say({ rank, came });
  },
  deaf: async ({ rank, group }) => {
    process.on('SIGTERM', () => {});
    group.barrier('all listen');
    say({ rank, pid: process.pid });
    await sleep(60_000);
  },
};

try {
  const flags = {
    nprocPerNode: values.nproc_per_node ?? null,
    nnodes: number('nnodes', 1),
    nodeRank: number('node_rank'),
    masterAddr: values.master_addr ?? null,
    masterPort: number('master_port'),
  };
  const standing = placeFromEnvironment(process.env, flags, 'cpu');
  if (standing.kind === 'launcher') {
    const command = [process.execPath, ...process.argv.slice(1)];
    const { env, stderr } = process;
    process.exitCode = await launch(standing.plan, { command, env, stderr, stopTimeout: number('stop', 60_000) });
  } else if (standing.kind === 'alone') {
    say({ alone: true });
  } else {
    const { place } = standing;
    await asMember(
      place,
      {
        timeout: number('timeout', 60_000),
        joinTimeout: number('joinTimeout', 60_000),
        facts: { equal: { '--learning_rate': values.fact === String(place.rank) ? 2 : 1 }, alike: {} },
        notice: (line) => console.error(line),
        ...(values.lang === 'zh' && { say: sayChinese() }),
        printed: printedError,
        interval: number('interval', 200),
        patience: number('patience', 50_000),
      },
      async (member) => await WORK[mode](Object.assign(Object.create(member.ranks), bound(member.ranks)), member),
    );
  }
} catch (error) {
  const { text: printed, code } = printedError(error);
  console.error(printed);
  process.exitCode = code;
}

function bound(ranks) {
  const { rank, size, localRank, localSize, group } = ranks;
  return { rank, size, localRank, localSize, group, at: (where) => ranks.at(where) };
}
