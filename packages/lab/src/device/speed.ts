/**
 * Figures of speed and memory of a device. Plain products, steps of a middle-sized model beside PyTorch's, steps of a
 * model of 8.1 B parameters.
 */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { allowTf32, type DType, emptyDeviceCache } from '@minicpm-finetune/torch';
import { matmulSpeed } from 'minicpm-finetune/internal';
import type { Outcome } from './board.js';
import { type Finished, runProgram } from './place.js';

const HERE = dirname(fileURLToPath(import.meta.url));
/** What bfloat16 may move losses apart, relative: both sides round, each in its own places; 16 roundings, should all have one sign. */
const LOSSES = 16 * 2 ** -9;

export function matmul(type: DType | 'tf32', device: string): Outcome {
  allowTf32(type === 'tf32');
  try {
    const speed = matmulSpeed(type === 'tf32' ? 'float32' : type, device);
    if (device !== 'cpu') emptyDeviceCache(device);
    return { ok: null, found: `${(speed / 1e12).toFixed(1)} TFLOP/s`, figures: { flops: speed } };
  } finally {
    allowTf32(false);
  }
}

/** The JSON line that a program ends with. */
function lastJson<T>({ code, stdout, stderr }: Finished, what: string): T {
  const text = stdout.trim().split('\n').at(-1) ?? '';
  if (code === 0 && text.startsWith('{')) return JSON.parse(text) as T;
  throw new Error(`${what} ended with code ${code}: ${(stderr || stdout).trim().slice(-500)}`);
}

/** Runs a script of the other side. */
async function python(peer: string, script: string, words: readonly string[]): Promise<Finished> {
  return await runProgram('python3', [join(peer, script), ...words], { PYTHONUNBUFFERED: '1' });
}

/** Makes a checkpoint of a size, and batches for it, with the other side's scripts. */
export async function makeCheckpoint(peer: string, folder: string, size: string): Promise<Outcome> {
  const [checkpoint, batches] = [join(folder, size), join(folder, `${size}.batches`)];
  for (const [script, words] of [
    ['make_checkpoint.py', ['--size', size, '--out', checkpoint]],
    ['make_batches.py', ['--checkpoint', checkpoint, '--out', batches]],
  ] as const) {
    const done = await python(peer, script, words);
    if (done.code !== 0) throw new Error(`${script} ended with code ${done.code}: ${done.stderr.trim().slice(-400)}`);
  }
  return { ok: null, found: checkpoint };
}

interface Line {
  readonly losses: readonly number[];
  readonly median_step_s: number;
  readonly peak_device_mib?: number;
  readonly peak_rss_mib: number;
  readonly language_gflops?: number;
  readonly matmul_gflops?: number;
  readonly device_waits?: number;
}

export interface Row {
  readonly name: string;
  readonly flags: readonly string[];
}

export const ROWS: readonly Row[] = [
  { name: 'lora', flags: ['--lora', '--bf16', '--freeze_vision', '--modules_to_save', ''] },
  { name: 'full', flags: ['--bf16'] },
];

/** One row of the table: this side, and the other one if it can run. */
export async function besidePeer(
  row: Row,
  { peer, folder, size, device, steps }: { peer: string; folder: string; size: string; device: string; steps: number },
): Promise<Outcome> {
  const files = ['--checkpoint', join(folder, size), '--batches', join(folder, `${size}.batches`)];
  if (!existsSync(files[1]!)) throw new Error(`Expected ${files[1]} but there is none`);
  const words = [...files, ...row.flags, '--steps', String(steps), '--device', device];
  const program = join(HERE, '..', 'peer', 'ours.js');
  const ours = lastJson<Line>(await runProgram(process.execPath, [program, ...words]), 'this side');
  const share = (ours.language_gflops ?? 0) / (ours.matmul_gflops ?? 1);
  const memory = (line: Line): number => line.peak_device_mib ?? line.peak_rss_mib;
  const own = `${(1000 * ours.median_step_s).toFixed(1)} ms, ${memory(ours).toFixed(0)} MiB, language blocks ${(100 * share).toFixed(0)} % of products, ${ours.device_waits} waits`;
  let theirs: Line;
  try {
    const run = await python(peer, 'train.py', [...words, '--vision_attention', 'sdpa']);
    theirs = lastJson<Line>(run, 'the other side');
  } catch (error) {
    return { ok: null, found: `${own}; alone: ${(error as Error).message.slice(-200)}`, figures: { ours } };
  }
  const difference = Math.max(...ours.losses.map((loss, i) => Math.abs(loss / theirs.losses[i]! - 1)));
  const speed = theirs.median_step_s / ours.median_step_s;
  const less = memory(ours) / memory(theirs);
  return {
    ok: difference <= LOSSES,
    found: `${own}; PyTorch ${(1000 * theirs.median_step_s).toFixed(1)} ms, ${memory(theirs).toFixed(0)} MiB: speed x${speed.toFixed(2)}, memory x${less.toFixed(2)}, losses differ by ${difference.toExponential(1)}`,
    figures: { ours, theirs, speed, memory: less, difference },
  };
}

/** Steps of a model of 8.1 B parameters; `tiny` stands for it where that is too large. */
export async function big(device: string, tokens: number, steps: number, tiny: boolean): Promise<Outcome> {
  const words = ['--device', device, '--tokens', String(tokens), '--steps', String(steps), ...(tiny ? ['--tiny'] : [])];
  const done = await runProgram(process.execPath, [join(HERE, 'big.js'), ...words]);
  const line = lastJson<Record<string, number> & { losses: number[] }>(done, 'the program');
  const billions = (line.parameters! / 1e9).toFixed(2);
  return {
    ok: line.losses.every(Number.isFinite),
    found: `${billions} B parameters, ${tokens} tokens: ${(1000 * line.median_step_s!).toFixed(0)} ms a step, ${line.tokens_per_s!.toFixed(0)} tokens/s, language blocks ${(100 * line.share_of_matmul!).toFixed(0)} % of products, peak ${line.peak_mib!.toFixed(0)} MiB`,
    figures: line,
  };
}
