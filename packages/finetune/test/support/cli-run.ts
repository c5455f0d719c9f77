/** The real command line in a child process, for tests of signals, kills and full disks. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { contentOfFile } from '@minicpm-finetune/run';

export const CLI = fileURLToPath(new URL('../../bin/minicpm-finetune.js', import.meta.url));

export interface Ended {
  /** Exit code; null if a signal ended the process. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Standard output and error together. */
  readonly output: string;
}

export interface Running {
  readonly child: ChildProcess;
  /** What was printed so far. */
  readonly output: () => string;
  readonly ended: Promise<Ended>;
}

const LIMIT_MS = 240_000;

/** Starts a program; it is killed after four minutes (or `limitMs`), which shows as signal SIGKILL. */
export function start(program: string, words: readonly string[], cwd?: string, limitMs = LIMIT_MS): Running {
  const child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'], ...(cwd === undefined ? {} : { cwd }) });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  const limit = setTimeout(() => child.kill('SIGKILL'), limitMs);
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => {
      clearTimeout(limit);
      resolve({ code, signal, output });
    });
  });
  return { child, output: () => output, ended };
}

/** `minicpm-finetune train` with flags as an object. */
export function startTraining(flags: Readonly<Record<string, unknown>>, cwd?: string): Running {
  return start(process.execPath, [CLI, 'train', ...words(flags)], cwd);
}

export function words(flags: Readonly<Record<string, unknown>>): string[] {
  return Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, String(value)]);
}

/** Waits until the output has a text; fails when the process ends before. */
export async function printed(running: Running, text: string): Promise<void> {
  let over = false;
  void running.ended.then(() => {
    over = true;
  });
  while (!running.output().includes(text)) {
    if (over) throw new Error(`the process ended without printing ${JSON.stringify(text)}:\n${running.output()}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const weightsIn = (folder: string): string | undefined =>
  ['model.safetensors', 'adapter_model.safetensors'].map((file) => join(folder, file)).find((path) => existsSync(path));

export const hasWeights = (folder: string): boolean => weightsIn(folder) !== undefined;

/** sha256 of the trained weights in a folder. @throws if there are none: two runs without weights are not equal */
export function weightsHash(folder: string): string {
  const path = weightsIn(folder);
  if (path === undefined) throw new Error(`Expected trained weights in ${folder}`);
  return contentOfFile(path).sha256;
}

/** Names of complete checkpoints, and of what is hidden, in a run folder. */
export function checkpointsIn(folder: string): { complete: string[]; hidden: string[] } {
  const names = existsSync(folder) ? readdirSync(folder) : [];
  return {
    complete: names.filter((name) => /^checkpoint-\d+$/.test(name)).sort(),
    hidden: names.filter((name) => name.startsWith('.')),
  };
}
