/**
 * `npm run bench:peer -- --peer DIR`: both sides of every speed and memory figure in one sitting, alternating, on the same checkpoint and
 * batches. DIR holds the PyTorch side (make_checkpoint.py, make_batches.py, train.py). Results: bench/results/<date>.json and a table.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const WHEELS = ['torch==2.13.0', 'transformers==5.18.0', 'peft', 'accelerate', 'safetensors', 'numpy'];

/** What is compared. `peer` flags go to the PyTorch side only; `at` is the least ratio hoped for, in samples/s or (memory) peak RSS. */
const ROWS = [
  {
    name: 'LoRA, frozen vision',
    size: 'medium',
    flags: ['--lora', '--bf16', '--freeze_vision', '--modules_to_save', ''],
    speed: 2.0,
    memory: 0.55,
  },
  {
    name: 'LoRA, frozen vision, peer with SDPA',
    size: 'medium',
    flags: ['--lora', '--bf16', '--freeze_vision', '--modules_to_save', ''],
    peer: ['--vision_attention', 'sdpa'],
    speed: 1.5,
  },
  {
    name: 'full fine-tuning, vision frozen',
    size: 'medium',
    flags: ['--bf16', '--freeze_vision'],
    speed: 1.4,
    memory: 0.8,
  },
  { name: 'LoRA, vision trained', size: 'small', flags: ['--lora', '--bf16'], speed: 1.5 },
  { name: 'LoRA, frozen vision, float32', size: 'small', flags: ['--lora', '--freeze_vision'], lossTolerance: 1e-4 },
];

const { values } = parseArgs({
  options: {
    peer: { type: 'string' },
    work: { type: 'string', default: join(root, '.bench') },
    steps: { type: 'string', default: '6' },
    rounds: { type: 'string', default: '1' },
    only: { type: 'string' },
    python: { type: 'string' },
  },
});

function run(command, args) {
  const result = spawnSync(command, args, { encoding: 'utf8', maxBuffer: 1 << 28 });
  if (result.status !== 0) {
    const tail = `${result.stdout}\n${result.stderr}`.trim().split('\n').slice(-15).join('\n');
    throw new Error(
      `Expected \`${command} ${args.join(' ')}\` to succeed but it ended with ${result.status ?? result.signal}:\n${tail}`,
    );
  }
  return result.stdout;
}

const lastJson = (text) =>
  JSON.parse(
    text
      .trim()
      .split('\n')
      .findLast((line) => line.startsWith('{')),
  );

/** A Python with the peer's wheels, or undefined with the reason said. */
function peerPython() {
  if (values.python) return values.python;
  const venv = join(values.work, 'venv');
  const python = join(venv, 'bin', 'python');
  try {
    if (!existsSync(python)) run('python3', ['-m', 'venv', venv]);
    if (spawnSync(python, ['-c', 'import torch, transformers, peft, accelerate']).status !== 0) {
      console.error(`installing ${WHEELS.join(' ')} into ${venv}`);
      run(python, ['-m', 'pip', 'install', ...WHEELS]);
    }
    return python;
  } catch (error) {
    console.error(`The other side's wheels cannot be installed, so this side runs alone: ${error.message}`);
    return undefined;
  }
}

function inputs(python, size) {
  const checkpoint = join(values.work, size);
  const batches = join(values.work, `${size}.safetensors`);
  if (!existsSync(join(checkpoint, 'config.json')) || !existsSync(batches)) {
    if (!python)
      throw new Error(
        `Expected ${checkpoint} and ${batches} but they are not there, and only the other side's scripts make them.`,
      );
    run(python, [join(values.peer, 'make_checkpoint.py'), '--size', size, '--out', checkpoint]);
    run(python, [join(values.peer, 'make_batches.py'), '--checkpoint', checkpoint, '--out', batches]);
  }
  return ['--checkpoint', checkpoint, '--batches', batches, '--steps', values.steps];
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

function summary(runs) {
  return {
    median_step_s: median(runs.flatMap(({ step_s: seconds }) => seconds.slice(1))),
    samples_per_s: median(runs.map((figures) => figures.samples_per_s)),
    peak_rss_mib: median(runs.map((figures) => figures.peak_rss_mib)),
    losses: runs[0].losses,
  };
}

function measure(row, python) {
  const common = [...inputs(python, row.size), ...row.flags];
  const ours = [];
  const peers = [];
  for (let round = 0; round < Number(values.rounds); round++) {
    ours.push(
      lastJson(run(process.execPath, [join(root, 'packages', 'finetune', 'dist', 'bench', 'main.js'), ...common])),
    );
    if (python) peers.push(lastJson(run(python, [join(values.peer, 'train.py'), ...common, ...(row.peer ?? [])])));
  }
  const result = { row: row.name, size: row.size, flags: row.flags, peer_flags: row.peer ?? [], ours: summary(ours) };
  if (peers.length === 0) return result;
  const peer = summary(peers);
  const losses = result.ours.losses.map((loss, i) => Math.abs(loss - peer.losses[i]) / Math.abs(peer.losses[i]));
  return {
    ...result,
    peer,
    speed_ratio: peer.median_step_s / result.ours.median_step_s,
    speed_wanted: row.speed ?? null,
    memory_ratio: result.ours.peak_rss_mib / peer.peak_rss_mib,
    memory_wanted: row.memory ?? null,
    largest_relative_loss_difference: Math.max(...losses),
  };
}

if (!values.peer) {
  console.error('Expected the folder of the PyTorch side as --peer DIR but received none. See bench/README.md.');
  process.exit(2);
}
mkdirSync(values.work, { recursive: true });
const python = peerPython();
const results = [];
for (const row of ROWS.filter(({ name }) => !values.only || name.includes(values.only))) {
  const result = measure(row, python);
  results.push(result);
  const peer = result.peer
    ? `peer ${result.peer.median_step_s.toFixed(2)} s ${result.peer.peak_rss_mib.toFixed(0)} MiB  speed x${result.speed_ratio.toFixed(2)} (wanted ${row.speed ?? '-'})  memory x${result.memory_ratio.toFixed(2)} (wanted ${row.memory ?? '-'})  loss difference ${result.largest_relative_loss_difference.toExponential(1)}`
    : 'no peer';
  console.log(
    `${row.size} ${row.name}: ours ${result.ours.median_step_s.toFixed(2)} s ${result.ours.peak_rss_mib.toFixed(0)} MiB  ${peer}`,
  );
}
const folder = join(root, 'bench', 'results');
mkdirSync(folder, { recursive: true });
const file = join(folder, `${new Date().toISOString().slice(0, 10)}.json`);
const machine = { cpu: cpus()[0]?.model, cores: cpus().length, memory: totalmem(), node: process.version };
writeFileSync(file, `${JSON.stringify({ machine, results }, null, 2)}\n`);
console.log(`written to ${file}`);
