/**
 * `npm run bench:decode`: generation beside transformers. One sitting measures the memory's bandwidth, this side in
 * bfloat16 and in int8, each by itself and in turns, and, with `--python`, transformers' `generate` on the same checkpoint (python/decode_peer.py), in alternating rounds.
 *
 * The limit of one sequence is the bandwidth over the bytes that a token reads: the layers' linear weights and the output layer.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { holdWeights, loadWeights, MiniCPMV, quantizeLayers, RunningBatch } from '@minicpm-finetune/minicpm-v';
import { type EncodedPrompt, readConfig } from '@minicpm-finetune/processor';
import { median } from '@minicpm-finetune/run';
import { ops, scope, yieldToEventLoop } from '@minicpm-finetune/torch';
import { Command } from 'commander';
import { startEngine } from 'minicpm-finetune/internal';

interface Flags {
  readonly checkpoint: string;
  readonly python?: string;
  readonly rounds: string;
  readonly tokens: string;
  readonly threads: string;
  readonly int8: boolean;
  readonly side?: string;
}

/** Sequences and positions of each prompt. */
const CASES: readonly (readonly [sequences: number, length: number])[] = [
  [1, 64],
  [4, 64],
  [16, 64],
  [1, 1000],
];

interface Figures {
  readonly sequences: number;
  readonly length: number;
  /** Until the first token of the first and of the last sequence. */
  readonly first_s: number;
  readonly last_s?: number;
  readonly step_s: number;
}

/** Seconds that it takes. */
function timed(work: () => void): number {
  const start = performance.now();
  work();
  return (performance.now() - start) / 1000;
}

const least = (values: readonly number[]): number => Math.min(...values);

/**
 * What one sequence makes of the memory's bandwidth, which changes from second to second on a shared machine: tokens and sums over a gigabyte take
 * turns. Bytes per second of both.
 */
function besideBandwidth(model: MiniCPMV): { reads: number; bandwidth: number } {
  const numbers = ops.full([250_000_000], 1, { dtype: 'float32' });
  const batch = new RunningBatch(model);
  batch.add(promptOf(0, 64), { maxNewTokens: 4096, stopTokens: new Set() });
  for (let i = 0; i < 4; i++) batch.step();
  const pairs = Array.from({ length: 24 }, () => [
    timed(() => batch.step()),
    timed(() => scope(() => ops.sumAll(numbers))),
  ]);
  const [step, sum] = [0, 1].map((i) => median(pairs.map((pair) => pair[i]!))) as [number, number];
  batch.dispose();
  const result = { reads: bytesOfToken(model) / step, bandwidth: numbers.nbytes / sum };
  numbers.dispose();
  return result;
}

function promptOf(seed: number, length: number): EncodedPrompt {
  const inputIds = Int32Array.from({ length }, (_, k) => (k * 31 + seed * 7 + 5) % 30_000);
  return { inputIds, imageBounds: [], pictures: [] };
}

/** Bytes of weights that a token reads. */
function bytesOfToken(model: MiniCPMV): number {
  let bytes = 0;
  for (const [name, parameter] of model.namedParameters())
    if (/^llm\.(model\.layers\.|lm_head)/.test(name)) bytes += parameter.compact?.nbytes ?? parameter.data.nbytes;
  return bytes;
}

function modelOf({ checkpoint }: Flags, int8: boolean): MiniCPMV {
  const model = new MiniCPMV(readConfig(checkpoint));
  loadWeights(model, checkpoint);
  if (int8) quantizeLayers(model, 'int8', { head: true });
  holdWeights(model);
  return model;
}

/** Tokens of one sequence with int8 and with bfloat16 weights take turns, four at a time: how many times as fast int8 is. */
function int8Beside(flags: Flags): { faster: number } {
  startEngine({ device: 'cpu', threads: Number(flags.threads) });
  const seconds: [number[], number[]] = [[], []];
  const batches = [false, true].map((int8) => {
    const batch = new RunningBatch(modelOf(flags, int8));
    batch.add(promptOf(0, 64), { maxNewTokens: 4096, stopTokens: new Set() });
    for (let i = 0; i < 5; i++) batch.step();
    return batch;
  });
  for (let turn = 0; turn < 40; turn++)
    for (const [which, batch] of batches.entries())
      for (let i = 0; i < 4; i++) seconds[which]!.push(timed(() => batch.step()));
  return { faster: median(seconds[0]) / median(seconds[1]) };
}

async function ours(flags: Flags): Promise<void> {
  startEngine({ device: 'cpu', threads: Number(flags.threads) }); // as chat and serve start it
  const model = modelOf(flags, flags.int8);
  for (const [sequences, length] of CASES) {
    await once(model, sequences, length, 2); // pages, code
    console.log(JSON.stringify(await once(model, sequences, length, Number(flags.tokens))));
  }
  console.log(JSON.stringify({ bytes: bytesOfToken(model), ...besideBandwidth(model) }));
}

async function once(model: MiniCPMV, sequences: number, length: number, tokens: number): Promise<Figures> {
  const batch = new RunningBatch(model);
  for (let i = 0; i < sequences; i++) {
    batch.add(promptOf(i, length), { maxNewTokens: 4096, stopTokens: new Set() });
  }
  const start = performance.now();
  const since = (): number => (performance.now() - start) / 1000;
  const started = new Set<number>();
  let first = 0;
  while (started.size < sequences) {
    for (const { sequence } of batch.step()) started.add(sequence);
    if (started.size > 0 && first === 0) first = since();
  }
  const last = since();
  for (let i = 0; i < tokens; i++) {
    batch.step();
    await yieldToEventLoop();
  }
  const step = (since() - last) / tokens;
  batch.dispose();
  return { sequences, length, first_s: first, last_s: last, step_s: step };
}

/** The JSON lines of a program. */
function lines(command: string, args: readonly string[]): Record<string, number>[] {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`Expected \`${command} ${args.join(' ')}\` to succeed but it failed:\n${stderr}`);
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
}

/** The fastest of all rounds, case by case. */
function fastest(rounds: readonly Record<string, number>[][], key: string, index: number): number {
  return least(rounds.map((round) => round[index]![key] ?? Number.POSITIVE_INFINITY));
}

function compare(flags: Flags): void {
  const program = import.meta.filename;
  const own = ['--checkpoint', flags.checkpoint, '--tokens', flags.tokens, '--threads', flags.threads];
  const peer = join(import.meta.dirname, '..', '..', 'python', 'decode_peer.py');
  const cases = CASES.flatMap(([sequences, length]) => ['--case', `${sequences}:${length}`]);
  const sides: Record<string, Record<string, number>[][]> = { bf16: [], int8: [], transformers: [] };
  for (let round = 0; round < Number(flags.rounds); round++) {
    sides.bf16!.push(lines(process.execPath, [program, ...own, '--side', 'ours']));
    if (flags.python) {
      const options = ['--checkpoint', flags.checkpoint, '--threads', flags.threads, '--tokens', flags.tokens];
      sides.transformers!.push(lines(flags.python, [peer, ...options, '--rounds', '1', ...cases]));
    }
    sides.int8!.push(lines(process.execPath, [program, ...own, '--side', 'ours', '--int8']));
  }
  for (const side of ['bf16', 'int8'] as const)
    for (const round of sides[side]!) {
      const { bytes, reads, bandwidth } = round.at(-1)! as { bytes: number; reads: number; bandwidth: number };
      const [speed, most, share] = [reads / bytes, bandwidth / bytes, reads / bandwidth].map((x) => x.toFixed(2));
      console.log(
        `${side}: ${(bytes / 1e9).toFixed(2)} GB a token; ${speed} tokens/s, where ${(bandwidth / 1e9).toFixed(1)} GB/s allow ${most}: ${share}`,
      );
    }
  const [beside] = lines(process.execPath, [program, ...own, '--side', 'both']);
  console.log(`one sequence with int8 weights is ${beside!.faster!.toFixed(2)} times as fast as with bf16, in turns`);
  CASES.forEach(([sequences, length], index) => {
    const cells = Object.entries(sides).flatMap(([side, rounds]) => {
      if (rounds.length === 0) return [];
      const of = (key: string): number => fastest(rounds, key, index);
      const last =
        of('last_s') === Number.POSITIVE_INFINITY || sequences === 1 ? '' : ` (last ${of('last_s').toFixed(2)} s)`;
      return [
        `${side} ${(sequences / of('step_s')).toFixed(1)} tokens/s, first after ${of('first_s').toFixed(2)} s${last}`,
      ];
    });
    console.log(`${sequences} x ${length}: ${cells.join(' | ')}`);
  });
}

const flags = new Command()
  .requiredOption('--checkpoint <dir>')
  .option('--python <file>', 'a Python with torch and transformers')
  .option('--rounds <n>', 'rounds of all sides', '2')
  .option('--tokens <n>', 'tokens of each sequence that are timed', '16')
  .option('--threads <n>', 'threads of each side', '2')
  .option('--int8', 'this side with 8-bit weights', false)
  .option('--side <name>')
  .parse()
  .opts<Flags>();
if (flags.side === 'ours') await ours(flags);
else if (flags.side === 'both') console.log(JSON.stringify(int8Beside(flags)));
else compare(flags);
