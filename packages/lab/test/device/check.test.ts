import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { Board, type Entry } from '../../src/device/board.js';
import { runProgram } from '../../src/device/place.js';

const PROGRAM = join(import.meta.dirname, '..', '..', 'dist', 'device', 'check.js');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'device-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const check = async (...words: string[]) =>
  await runProgram(process.execPath, [PROGRAM, '--device', 'cpu', '--short', ...words], { GOLDEN: undefined });

describe('a board', () => {
  it('goes on after a check that throws, keeps what was chosen, and writes everything down after each', async () => {
    const file = join(folder, 'board.json');
    const board = new Board({ device: 'none' }, { only: ['a', 'b'], skip: ['b/2'] }, file);
    await board.run('a', () => {
      throw new Error('no such thing');
    });
    expect((JSON.parse(readFileSync(file, 'utf8')) as { checks: Entry[] }).checks).toHaveLength(1);
    for (const name of ['b/1', 'b/2', 'c']) await board.run(name, () => ({ ok: true, found: 'it' }));
    await board.run('b/3', async () => ({ ok: null, found: '7 TFLOP/s' }));
    expect(board.entries.map(({ check: name, ok }) => [name, ok])).toEqual([
      ['a', false],
      ['b/1', true],
      ['b/3', null],
    ]); // prettier-ignore
    expect(board.entries[0]!.found).toBe('no such thing');
    expect(board.failures).toBe(1);
    expect(JSON.parse(readFileSync(file, 'utf8'))).toMatchObject({ device: 'none', failures: 1 });
  });
});

describe('check:device on the CPU', () => {
  it('compares training, resume and memory, and measures; all as JSON', async () => {
    const json = join(folder, 'check.json');
    const only = LONG
      ? 'device,train/lora,train/fused,train/resume,train/random,train/nonfinite,train/flat,train/flat_fused,chat,merge,matmul/bfloat16,speed/feeding,speed/8.1B'
      : 'device,train/lora,train/resume,train/flat_fused';
    const { code, stdout, stderr } = await check('--json', json, '--only', only);
    expect(code, stdout + stderr).toBe(0);
    const { device, checks } = JSON.parse(readFileSync(json, 'utf8')) as { device: string; checks: Entry[] };
    expect(device).toBe('cpu');
    expect(checks.map(({ check: name }) => name).join()).toBe(only);
    const figures = new Map(checks.map(({ check: name, figures: own }) => [name, own!]));
    expect(figures.get('train/lora')).toMatchObject({ loss: 0, norm: 0, steps: [4, 4] });
    expect(figures.get('train/resume')).toMatchObject({ loss: 0, norm: 0 });
    expect(figures.get('train/flat_fused')).toMatchObject({ bytes: 0, tensors: 0, waits: 2 });
    if (!LONG) return;
    expect(figures.get('train/fused')).toMatchObject({ loss: 0, norm: 0 });
    expect(figures.get('train/flat')).toMatchObject({ bytes: 0, tensors: 0, waits: 1 });
    const { share } = figures.get('speed/feeding') as { share: number };
    expect(share).toBeGreaterThan(0); // on a busy machine it may be any share
    expect(share).toBeLessThan(1);
  }, 600_000);

  it.runIf(LONG)(
    'lets two ranks compute as one, and end when one is killed',
    async () => {
      const { code, stdout, stderr } = await check('--only', 'ranks');
      expect(code, stdout + stderr).toBe(0);
      expect(stdout.match(/ranks\/train\/.*equal bytes of weights/g)).toHaveLength(3);
      expect(stdout).toMatch(/5 of 5 without failure/);
    },
    600_000,
  );

  it('ends with 1 when a check fails, after all others', async () => {
    const broken = join(folder, 'broken');
    mkdirSync(join(broken, 'cases'), { recursive: true });
    writeFileSync(join(broken, 'config.json'), '{}');
    const { code, stdout } = await check('--only', 'parity/float32,matmul/float32', broken);
    expect(code).toBe(1);
    expect(stdout).toMatch(/FAIL .*parity\/float32\/0 .*broken: 0 of 1 checks/);
    expect(stdout).toMatch(/matmul\/float32 .*TFLOP\/s\n1 of 2 without failure/);
  }, 100_000);

  it.each([
    [['--device', 'tpu'], /auto, cpu, cuda or mps for --device but received tpu/],
    [['/nowhere'], /reference folders with cases but received "\/nowhere"/],
    ...(LONG
      ? ([
          [['--peer', '/nowhere'], /train\.py for --peer but received \/nowhere/],
          [['--fast'], /--fast/],
        ] as const)
      : []),
  ] as const)('refuses %j', async (words, message) => {
    const { code, stderr } = await check(...words);
    expect(code).toBe(2);
    expect(stderr).toMatch(message);
  });
});
