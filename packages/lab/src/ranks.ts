/** Runs a program of this package over several ranks. The program starts itself again for each. */
import { UserError } from '@minicpm-finetune/run';
import { asMember, launch, placeFromEnvironment, type Ranks, soloRanks } from 'minicpm-finetune/internal';

const STOP = 10_000;
const TIMEOUT = 600_000;
const BY_ENVIRONMENT = { nprocPerNode: null, nnodes: 1, nodeRank: null, masterAddr: null, masterPort: null };

/** Does the work on each of `size` ranks of this machine's CPU. Returns the exit code: that of the first rank that failed. */
export async function overRanks(size: number, work: (ranks: Ranks) => Promise<number>): Promise<number> {
  if (size === 1) {
    using ranks = soloRanks();
    return await work(ranks);
  }
  const standing = placeFromEnvironment(process.env, BY_ENVIRONMENT, 'cpu');
  if (standing.kind !== 'rank') {
    const plan = { firstRank: 0, localSize: size, size, masterAddr: '127.0.0.1', masterPort: 0, gpus: [] };
    const command = [process.execPath, ...process.argv.slice(1)];
    return await launch(plan, { command, env: process.env, stderr: process.stderr, stopTimeout: STOP });
  }
  const options = { timeout: TIMEOUT, facts: { equal: {} }, notice: (line: string) => console.error(line), printed };
  return await asMember(standing.place, options, ({ ranks }) => work(ranks));
}

function printed(error: unknown): { text: string; code: number } {
  const text = error instanceof Error && !(error instanceof UserError) ? (error.stack ?? error.message) : String(error);
  return { text, code: 1 };
}
