/**
 * `npm run bench:peer`: this project beside PyTorch. `npm run bench:peer -- --peer DIR` runs both sides of every speed
 * and memory figure in one sitting, alternating, on the same checkpoint and batches. DIR holds the PyTorch side
 * (make_checkpoint.py, make_batches.py, train.py) of 2.6; that of 4.6, transformers' own model, is packages/lab/python/peer_v46.py. Results: packages/lab/results/<date>.json and a table.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', '..');
const WHEELS = ['torch==2.13.0', 'transformers==5.18.0', 'peft', 'accelerate', 'safetensors', 'numpy'];

const LORA = ['--lora', '--bf16', '--freeze_vision', '--modules_to_save', ''];
const FULL = ['--bf16', '--freeze_vision'];
/** Adapters on every linear layer of 4.6's language model. */
const LORA_46 = [
  ...LORA,
  '--lora_r',
  '16',
  '--lora_target_modules',
  'model\\.language_model\\.layers\\.\\d+\\.\\w+\\.\\w*proj\\w*',
];

/**
 * What is compared. `own` flags go to this side only, `peer` flags to the other one; `prepare` runs this side once before it is measured.
 * `script`: another script of the other side than its train.py. `speed` is the least ratio hoped for, `memory` (peak resident memory) and `start` (seconds before the first step) the largest.
 */
const ROWS = [
  { name: 'LoRA, frozen vision', size: 'medium', flags: LORA, speed: 2.0, memory: 0.55, start: 0.5 },
  {
    name: 'LoRA, frozen vision, peer with SDPA',
    size: 'medium',
    flags: LORA,
    peer: ['--vision_attention', 'sdpa'],
    speed: 1.5,
  },
  {
    name: 'LoRA, cached vision features',
    size: 'medium',
    flags: LORA,
    own: (work) => ['--cache_vision', join(work, 'vision-cache')],
    prepare: true,
    speed: 3.5,
  },
  { name: 'full fine-tuning, vision frozen', size: 'medium', flags: FULL, speed: 1.4, memory: 0.8 },
  {
    name: 'full fine-tuning, update in the backward pass',
    size: 'medium',
    flags: FULL,
    own: () => ['--fused_backward', '--gradient_checkpointing'], // as `train --fused_backward` does
    memory: 0.65,
    clipsDifferently: true,
  },
  {
    name: 'LoRA, recompute, sequences of about 2048 tokens',
    size: 'medium',
    batches: { name: 'long', args: ['--batches', '3', '--batch_size', '1', '--answer', '1900'] },
    flags: [...LORA, '--gradient_checkpointing'],
    memory: 0.45,
  },
  {
    name: 'DPO, LoRA, frozen vision',
    size: 'medium',
    flags: LORA,
    own: () => ['--preference'],
    script: join(root, 'packages', 'lab', 'python', 'dpo_peer.py'),
    speed: 2.5,
    memory: 0.5,
  },
  { name: 'LoRA, vision trained', size: 'small', flags: ['--lora', '--bf16'], speed: 1.5 },
  { name: 'LoRA, frozen vision, bf16', size: 'small', flags: LORA },
  { name: 'LoRA, frozen vision, float32', size: 'small', flags: ['--lora', '--freeze_vision'] },
  {
    name: 'LoRA, frozen vision, beside transformers',
    size: '4_6',
    batches: { name: 'short', args: ['--batches', '2', '--batch_size', '2', '--tokens', '512'] },
    flags: LORA_46,
    speed: 3.0,
    memory: 0.5,
  },
  {
    name: 'LoRA, cached vision features (as `train` does from the second epoch on), beside transformers',
    size: '4_6',
    batches: { name: 'short', args: ['--batches', '2', '--batch_size', '2', '--tokens', '512'] },
    flags: LORA_46,
    own: (work) => ['--cache_vision', join(work, 'vision-cache')],
    prepare: true,
    speed: 3.0,
    memory: 0.5,
  },
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

/** The other side's program for a row and a task: a file, and words before the flags. */
function peerProgram({ size, script }, task) {
  if (script && task === 'train') return [script, '--peer', values.peer];
  if (size === '4_6') return [join(root, 'packages', 'lab', 'python', 'peer_v46.py'), task];
  return [join(values.peer, { checkpoint: 'make_checkpoint.py', batches: 'make_batches.py', train: 'train.py' }[task])];
}

function inputs(python, row) {
  const { size, batches: wanted = { name: '', args: [] } } = row;
  const checkpoint = join(values.work, size);
  const batches = join(values.work, `${[size, wanted.name].filter(Boolean).join('-')}.safetensors`);
  const missing = [join(checkpoint, 'config.json'), batches].map((file) => !existsSync(file));
  if (missing.some(Boolean) && !python)
    throw new Error(
      `Expected ${checkpoint} and ${batches} but they are not there, and only the other side's scripts make them.`,
    );
  if (missing[0]) run(python, [...peerProgram(row, 'checkpoint'), '--size', size, '--out', checkpoint]);
  if (missing[1])
    run(python, [...peerProgram(row, 'batches'), '--checkpoint', checkpoint, '--out', batches, ...wanted.args]);
  return ['--checkpoint', checkpoint, '--batches', batches];
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];

/** One run of a side: its JSON line, and the seconds before its first step (with loading its libraries). */
function figures(command, args) {
  const started = performance.now();
  const line = lastJson(run(command, args));
  const seconds = (performance.now() - started) / 1000;
  return { ...line, start_s: line.start_s ?? seconds - line.step_s.reduce((sum, step) => sum + step, 0) };
}

function summary(runs) {
  const { losses, parts_s, memory_mib, language_gflops, matmul_gflops } = runs[0];
  const cpu = runs.flatMap(({ step_cpu_s: seconds }) => seconds?.slice(1) ?? []);
  return {
    ...(cpu.length > 0 ? { median_step_cpu_s: median(cpu) } : {}),
    median_step_s: median(runs.flatMap(({ step_s: seconds }) => seconds.slice(1))),
    samples_per_s: median(runs.map((one) => one.samples_per_s)),
    peak_rss_mib: median(runs.map((one) => one.peak_rss_mib)),
    start_s: Number(median(runs.map((one) => one.start_s)).toFixed(2)),
    losses,
    ...(parts_s ? { parts_s, memory_mib, language_gflops, matmul_gflops } : {}),
  };
}

/** Runs of the other side by their flags: rows that differ on this side only share them. */
const peerRuns = new Map();

function measure(row, python) {
  const common = [...inputs(python, row), ...row.flags];
  const bench = [
    join(root, 'packages', 'lab', 'dist', 'peer', 'ours.js'),
    ...common,
    ...(row.own?.(values.work) ?? []),
  ];
  const peerArgs = [...peerProgram(row, 'train'), ...common, ...(row.peer ?? []), '--steps', values.steps];
  const known = peerRuns.get(peerArgs.join(' '));
  const ours = [];
  const peers = known ?? [];
  if (row.prepare) run(process.execPath, [...bench, '--steps', '4']);
  for (let round = 0; round < Number(values.rounds); round++) {
    ours.push(figures(process.execPath, [...bench, '--steps', values.steps]));
    if (python && !known) peers.push(figures(python, peerArgs));
  }
  peerRuns.set(peerArgs.join(' '), peers);
  const own = row.own?.(values.work).map((word) => word.replace(values.work, 'WORK')) ?? [];
  const result = {
    row: row.name,
    size: row.size,
    flags: row.flags,
    own_flags: own,
    peer_flags: row.peer ?? [],
    ours: summary(ours),
  };
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
    start_ratio: result.ours.start_s / peer.start_s,
    start_wanted: row.start ?? null,
    largest_relative_loss_difference: Math.max(...losses),
    ...(row.clipsDifferently
      ? { note: 'the norm is clipped block by block, so the losses differ from the second step on' }
      : {}),
  };
}

/** Rows measured before and not now stay in the file of the day. */
function withEarlier(file, machine, results) {
  if (!existsSync(file)) return results;
  const before = JSON.parse(readFileSync(file, 'utf8'));
  if (JSON.stringify(before.machine) !== JSON.stringify(machine)) return results;
  const measured = new Set(results.map(({ row, size }) => `${size} ${row}`));
  return [...before.results.filter(({ row, size }) => !measured.has(`${size} ${row}`)), ...results];
}

if (!values.peer) {
  console.error('Expected the folder of the PyTorch side as --peer DIR but received none. See packages/lab/README.md.');
  process.exit(2);
}
mkdirSync(values.work, { recursive: true });
const python = peerPython();
const results = [];
for (const row of ROWS.filter(({ name }) => !values.only || name.includes(values.only))) {
  const result = measure(row, python);
  results.push(result);
  const peer = result.peer
    ? `peer ${result.peer.median_step_s.toFixed(2)} s ${result.peer.peak_rss_mib.toFixed(0)} MiB  speed x${result.speed_ratio.toFixed(2)} (wanted ${row.speed ?? '-'})  memory x${result.memory_ratio.toFixed(2)} (wanted ${row.memory ?? '-'})  start x${result.start_ratio.toFixed(2)} (wanted ${row.start ?? '-'})  loss difference ${result.largest_relative_loss_difference.toExponential(1)}`
    : 'no peer';
  console.log(
    `${row.size} ${row.name}: ours ${result.ours.median_step_s.toFixed(2)} s ${result.ours.peak_rss_mib.toFixed(0)} MiB  ${peer}`,
  );
}
const folder = join(root, 'packages', 'lab', 'results');
mkdirSync(folder, { recursive: true });
const file = join(folder, `${new Date().toISOString().slice(0, 10)}.json`);
const machine = { cpu: cpus()[0]?.model, cores: cpus().length, memory: totalmem(), node: process.version };
writeFileSync(file, `${JSON.stringify({ machine, results: withEarlier(file, machine, results) }, null, 2)}\n`);
console.log(`written to ${file}`);
