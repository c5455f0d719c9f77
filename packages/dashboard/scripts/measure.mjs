/**
 * Measures what the page has to do at once. Lists many runs and draws a long one:
 *
 *     node packages/dashboard/scripts/measure.mjs [--runs 500] [--steps 1000] [--long 100000]
 *
 * Makes run folders in a temporary folder and prints one line of JSON: seconds until a fresh server has answered the list, its memory then,
 * and the seconds of the first and the next request for eleven series of the long run.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { METRICS, makeRuns, served, since } from './made-runs.mjs';

const flag = (name, usual) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? usual : Number(process.argv[at + 1]);
};
const rssOf = (pid) => 1024 * Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);

const folder = mkdtempSync(join(tmpdir(), 'page-measure-'));
try {
  const [runs, steps, long] = [flag('runs', 500), flag('steps', 1000), flag('long', 100_000)];
  makeRuns(
    join(folder, 'many'),
    Array.from({ length: runs }, (_, i) => `run-${i}`),
    steps,
  );
  makeRuns(join(folder, 'one'), long > 0 ? ['long'] : [], long);
  const many = await served(join(folder, 'many'), async ({ ask, began, pid }) => {
    const listed = (await ask('/api/runs')).runs.length;
    return { listed, list_seconds: since(began), rss: rssOf(pid) };
  });
  const one = await served(long > 0 ? join(folder, 'one') : folder, async ({ ask, pid }) => {
    if (long === 0) return {};
    const { runs: found } = await ask('/api/runs');
    const path = `/api/runs/${found[0].id}/series?points=2000&smoothing=0.9&metrics=${METRICS.join()}`;
    const first = performance.now();
    await ask(path);
    const next = performance.now();
    await ask(path);
    return {
      first_series_seconds: Math.round(next - first) / 1000,
      next_series_seconds: since(next),
      long_rss: rssOf(pid),
    };
  });
  console.log(JSON.stringify({ runs, steps, long, ...many, ...one }));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
