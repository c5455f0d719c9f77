/**
 * Measures what the page has to do at once. Lists many runs and draws a long one:
 *
 *     node packages/dashboard/scripts/measure.mjs [--runs 500] [--steps 1000] [--long 100000]
 *
 * Makes run folders in a temporary folder and prints one line of JSON: seconds until a fresh server has answered the list, its memory then,
 * and the seconds of the first and the next request for eleven series of the long run.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const flag = (name, usual) => {
  const at = process.argv.indexOf(`--${name}`);
  return at < 0 ? usual : Number(process.argv[at + 1]);
};
const METRICS = [
  'loss',
  'grad_norm',
  'learning_rate',
  'step_seconds',
  'samples_per_s',
  'tokens_per_s',
  'supervised_tokens_per_s',
  'data_wait_share',
  'memory.rss',
  'memory.tensors',
  'eta_seconds',
];

function eventsOf(steps) {
  const time = (step) => new Date(1_795_752_000_000 + step * 400).toISOString();
  const lines = [{ event: 'run_start', time: time(0), config: {}, total_steps: steps, resumed_at_step: 0 }];
  for (let step = 1; step <= steps; step++) {
    lines.push({
      event: 'step',
      time: time(step),
      step,
      epoch: step / 8000,
      loss: 8 * Math.exp(-step / 9000) + Math.random(),
      grad_norm: 3 * Math.random(),
      learning_rate: 1e-5 * (1 - step / steps),
      step_seconds: 0.39 + Math.random() / 10,
      samples_per_s: 81.9 + Math.random(),
      tokens_per_s: 3892 + Math.random(),
      supervised_tokens_per_s: 163 + Math.random(),
      data_wait_share: Math.random() / 50,
      memory: { rss: 412_983_296 + step, tensors: 369 },
      eta_seconds: (steps - step) * 0.4,
    });
  }
  lines.push({ event: 'run_end', time: time(steps), status: 'finished', step: steps, seconds: steps * 0.4 });
  return `${lines.map((line) => JSON.stringify(line)).join('\n')}\n`;
}

function makeRuns(folder, names, steps) {
  if (names.length === 0) return;
  const text = eventsOf(steps);
  for (const name of names) {
    mkdirSync(join(folder, name), { recursive: true });
    writeFileSync(join(folder, name, 'events.jsonl'), text);
  }
}

/** A server in a process of its own. */
async function served(root, look) {
  const script = fileURLToPath(new URL('../test/support/page-process.mjs', import.meta.url));
  const began = performance.now();
  const child = spawn(process.execPath, [script, root, '0', ''], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const port = await new Promise((resolve) => child.stdout.once('data', (text) => resolve(Number(text))));
    const ask = async (path) => {
      const headers = { authorization: `Bearer ${'t'.repeat(43)}` };
      const answer = await fetch(`http://127.0.0.1:${port}${path}`, { headers });
      return await answer.json();
    };
    return await look(ask, { began, pid: child.pid });
  } finally {
    child.kill('SIGKILL');
  }
}

const rssOf = (pid) => 1024 * Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
const since = (began) => Math.round(performance.now() - began) / 1000;

const folder = mkdtempSync(join(tmpdir(), 'page-measure-'));
try {
  const [runs, steps, long] = [flag('runs', 500), flag('steps', 1000), flag('long', 100_000)];
  makeRuns(
    join(folder, 'many'),
    Array.from({ length: runs }, (_, i) => `run-${i}`),
    steps,
  );
  makeRuns(join(folder, 'one'), long > 0 ? ['long'] : [], long);
  const many = await served(join(folder, 'many'), async (ask, { began, pid }) => {
    const listed = (await ask('/api/runs')).runs.length;
    return { listed, list_seconds: since(began), rss: rssOf(pid) };
  });
  const one = await served(long > 0 ? join(folder, 'one') : folder, async (ask, { pid }) => {
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
