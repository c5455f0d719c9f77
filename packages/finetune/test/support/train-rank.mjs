/**
 * One rank of a training run under test: `node train-rank.mjs FLAGS`, flags as JSON. Prints its events and how it ended, as JSON lines; takes
 * SIGTERM and SIGUSR1 as the command line does.
 */
import { UserError } from '@minicpm-finetune/run';
import { resolveConfig } from '../../dist/config/resolve.js';
import { joinRanks } from '../../dist/parallel/ranks.js';
import { train } from '../../dist/train/train.js';

const [rank, size] = [Number(process.env.RANK), Number(process.env.WORLD_SIZE)];
const say = (value) => console.log(JSON.stringify(value));
const { config } = resolveConfig(JSON.parse(process.argv[2]), { worldSize: size });
const masterPort = Number(process.env.MASTER_PORT);
const place = { rank, size, localRank: rank, localSize: size, masterAddr: '127.0.0.1', masterPort };
const ranks = await joinRanks(
  { ...place, ...(rank === 0 && { listening: 3 }) },
  { timeout: 60_000, notice() {}, facts: { equal: {} } },
);

const stop = new AbortController();
let save = false;
process.on('SIGTERM', () => stop.abort('sigterm'));
process.on('SIGUSR1', () => {
  save = true;
});
const saveRequested = () => {
  const asked = save;
  save = false;
  return asked;
};
const reporter = { notice: (notice) => say({ notice }), task: () => ({ update() {}, finish() {}, stop() {} }) };
try {
  const result = await train(config, { ranks, signal: stop.signal, saveRequested, reporter, onEvent: say });
  say({ result });
} catch (error) {
  say({ user: error instanceof UserError, message: error.message, ...(error instanceof UserError && error.details()) });
  process.exitCode = 1;
}
ranks[Symbol.dispose]();
