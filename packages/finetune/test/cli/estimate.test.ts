/** The estimate command: table, arithmetic, JSON and settings that fit, from config.json alone. */
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ENGLISH } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyCheckpoint, VERSION_NAMES } from '../../../minicpm-v/test/support/tiny.js';
import { parseFlags } from '../../src/cli/command.js';
import { estimateCommand } from '../../src/cli/estimate/command.js';

const folder = mkdtempSync(join(tmpdir(), 'estimate-'));
beforeAll(() => {
  for (const version of VERSION_NAMES) {
    const made = tinyCheckpoint(join(folder, 'whole'), version);
    cpSync(join(made, 'config.json'), join(folder, `${version}.json`));
  }
});
afterAll(() => rmSync(folder, { recursive: true }));

interface Line {
  readonly bytes: number;
  readonly terms: readonly { readonly count: number; readonly bytes: number }[];
}
interface Found {
  readonly estimates: readonly {
    readonly world: number;
    readonly device: readonly Line[];
    readonly deviceBytes: number;
  }[];
}

/** Runs the command as main does. */
async function run(version: string, ...words: string[]): Promise<{ code: number; stdout: string }> {
  const all = ['--model_name_or_path', join(folder, `${version}.json`), '--model_max_length', '512', ...words];
  let stdout = '';
  const given = parseFlags(estimateCommand.text, estimateCommand.flags, all);
  const write = (text: string): void => {
    stdout += text;
  };
  const code = await estimateCommand.run(given, {
    stdout: { write },
    stderr: { write: () => {} },
    env: {},
    say: ENGLISH,
  });
  return { code, stdout };
}

describe('estimate', () => {
  it.each(VERSION_NAMES)('prints a table of %s from config.json, and the same figures as JSON', async (version) => {
    const text = await run(version);
    expect(text.code).toBe(0);
    expect(text.stdout).toMatch(/GiB per device +x1 +x2 +x4 +x8\n {2}zero stage +0 +3 +3 +3\n/);
    expect(text.stdout).toMatch(/arithmetic for 8 devices, most in the /);
    const json = await run(version, '--json', '--use_lora', '--world', '1', '2');
    const { estimates } = JSON.parse(json.stdout) as Found;
    expect(estimates.map(({ world }) => world)).toEqual([1, 2]);
    for (const { device, deviceBytes } of estimates) {
      expect(deviceBytes).toBeCloseTo(
        device.reduce((sum, { bytes }) => sum + bytes, 0),
        3,
      );
      for (const { bytes, terms } of device)
        expect(bytes).toBeCloseTo(
          terms.reduce((sum, term) => sum + term.count * term.bytes, 0),
          3,
        );
    }
  });

  it('finds settings that fit, with the command line, and says where there are none', async () => {
    const { code, stdout } = await run('minicpm-v-2_6', '--fit', '1TB', '--world', '1');
    expect(code).toBe(0);
    expect(stdout).toContain('with the settings as they are\n  minicpm-finetune train --model_name_or_path ');
    const none = await run('minicpm-v-2_6', '--fit', '1MB', '--world', '1');
    expect(none.code).toBe(2);
    expect(none.stdout).toContain('x1: nothing that may be changed fits 1.0 MB.');
  });
});
