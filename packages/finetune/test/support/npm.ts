/** npm as a user runs it: packing the public packages, and commands in a folder outside the repository. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';

export const REPOSITORY = join(import.meta.dirname, '..', '..', '..', '..');
export const COMPILER = join(REPOSITORY, 'node_modules', 'typescript', 'bin', 'tsc');
const PUBLIC = ['torch', 'run', 'processor', 'minicpm-v', 'serve', 'dashboard', 'finetune'];

/** The environment without what `npm test` adds to it: a child npm would take this repository for its project. */
export function cleanEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(
    ([name]) =>
      !/^(npm_(package|lifecycle|command|execpath|node_execpath|config_local_prefix)|INIT_CWD|NODE_OPTIONS|VITEST)/.test(
        name,
      ),
  );
  return Object.fromEntries(kept);
}

/** Makes a folder of programs with node, npm, npx and sh alone: a PATH without compiler and Python. */
export function programsWithoutCompiler(folder: string): string {
  mkdirSync(folder, { recursive: true });
  symlinkSync(process.execPath, join(folder, 'node'));
  for (const name of ['npm', 'npx', 'sh']) {
    symlinkSync(execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim(), join(folder, name));
  }
  return folder;
}

/** Packs the public packages and returns the tarballs. */
export function packAll(folder: string): string[] {
  mkdirSync(folder, { recursive: true });
  const which = PUBLIC.flatMap((name) => ['--workspace', `packages/${name}`]);
  const output = execFileSync('npm', ['pack', ...which, '--silent', '--pack-destination', folder], {
    cwd: REPOSITORY,
    env: cleanEnvironment(),
    encoding: 'utf8',
  });
  return output
    .trim()
    .split('\n')
    .filter((line) => line.endsWith('.tgz'))
    .map((name) => join(folder, name));
}

export interface Ran {
  readonly status: number;
  /** Standard output and error, one after the other. */
  readonly output: string;
}

/** Runs a program to its end. */
export function run(program: string, words: readonly string[], cwd: string, env: NodeJS.ProcessEnv): Ran {
  try {
    const output = execFileSync(program, words, { cwd, env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    return { status: 0, output };
  } catch (error) {
    const { status, stdout, stderr, message } = error as {
      status: number | null;
      stdout: string;
      stderr: string;
      message: string;
    };
    return { status: status ?? -1, output: `${stdout}${stderr}${message}` };
  }
}
