/** Runs of made-up numbers for measuring. And a server of the page in a process of its own. */
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const METRICS = [
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

/** Run folders of these names, each with so many steps. */
export function makeRuns(folder, names, steps) {
  if (names.length === 0) return;
  const text = eventsOf(steps);
  for (const name of names) {
    mkdirSync(join(folder, name), { recursive: true });
    writeFileSync(join(folder, name, 'events.jsonl'), text);
  }
}

/** The token of `served`. */
export const TOKEN = 't'.repeat(43);

/** Calls `look` with a server over a folder of runs: its port and process, when it was started, and how to ask it. */
export async function served(root, look) {
  const script = fileURLToPath(new URL('../test/support/page-process.mjs', import.meta.url));
  const began = performance.now();
  const child = spawn(process.execPath, [script, root, '0', ''], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const port = await new Promise((resolve) => child.stdout.once('data', (text) => resolve(Number(text))));
    return await look({ port, began, pid: child.pid, ask: (path) => answerOf(port, path) });
  } finally {
    child.kill('SIGKILL');
  }
}

/** What the server answers; by `request`, since the first `fetch` of a process takes a tenth of a second for itself. */
function answerOf(port, path) {
  const headers = { authorization: `Bearer ${TOKEN}` };
  return new Promise((resolve, reject) => {
    const asked = request({ host: '127.0.0.1', port, path, headers }, async (answer) => {
      const parts = [];
      for await (const part of answer) parts.push(part);
      resolve(JSON.parse(Buffer.concat(parts).toString('utf8')));
    });
    asked.once('error', reject).end();
  });
}

/** Seconds since a moment of `performance.now`. */
export const since = (began) => Math.round(performance.now() - began) / 1000;
