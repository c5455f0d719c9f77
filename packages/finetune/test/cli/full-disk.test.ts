/** A full disk under export and merge: one message with folder, bytes and cure, and nothing half written is left. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exportGguf } from '@minicpm-finetune/minicpm-v';
import { setThreads } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { EXIT } from '../../src/cli/exit.js';
import { main } from '../../src/cli/main.js';
import { fillDisk, mountSmall, unmount } from '../support/small-disk.js';
import { tinyAdapter, tinyModel } from '../support/tiny-model.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'full-disk-'));
const disk = mountSmall(4);
afterAll(() => {
  if (disk !== null) unmount(disk);
  rmSync(work, { recursive: true });
});

async function run(...words: string[]): Promise<{ code: number; stderr: string }> {
  let stderr = '';
  const stream = {
    write(text: string): void {
      stderr += text;
    },
  };
  const code = await main(words, { stdout: stream, stderr: stream, env: {} });
  return { code, stderr };
}

describe.skipIf(disk === null)('a full disk', () => {
  const model = tinyModel(join(work, 'model'));
  const adapter = tinyAdapter(model, join(work, 'adapter'));
  const output = join(disk ?? '', 'deep', 'out');
  const exported = ['export', '--model', model, '--output', output];
  const commands: [string, string[]][] = [
    ['export', [...exported, '--adapter', adapter, '--outtype', 'f32']],
    ['export --format safetensors', [...exported, '--format', 'safetensors']],
    ['merge', ['merge', '--model', model, '--adapter', adapter, '--output_dir', output]],
  ];

  it.each(commands)('%s: too little room is known before anything is written', async (_, words) => {
    const other = join(disk!, 'other');
    writeFileSync(other, Buffer.alloc(3_000_000));
    const { code, stderr } = await run(...words);
    expect(stderr).toMatch(
      /error: (.*: )?Expected [25]\.\d MB free for the (exported|merged) model in .*deep but received 1\.\d MB\./,
    );
    expect(stderr).toMatch(/Free some space, or give a folder on another disk\./);
    expect(stderr).not.toMatch(/^\s+at /m); // no stack
    expect(code).toBe(EXIT.usage);
    expect(readdirSync(disk!)).toEqual(['other']);
    rmSync(other);
  });

  it.each(commands)('%s: not a byte left', async (_, words) => {
    const ballast = fillDisk(disk!);
    const { code, stderr } = await run(...words);
    expect(stderr).toMatch(
      /^error: Expected to write in .*deep but received: ENOSPC.*\n.*\n cure: Name a folder .* with free space\.$/m,
    );
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(code).toBe(EXIT.usage);
    expect(readdirSync(disk!)).toEqual(['ballast']);
    rmSync(ballast);
  });

  it('a disk that another program fills meanwhile: nothing is left, and the message says how much it needs', () => {
    let ballast = '';
    const onProgress = (): void => {
      if (ballast === '') ballast = fillDisk(disk!);
    };
    expect(() => exportGguf({ model, output, outtype: 'q8_0', onProgress })).toThrow(
      /^Expected 3\.\d MB for the exported model in .* but the disk is full: .+B free\.$/,
    );
    expect(readdirSync(disk!)).toEqual(['ballast']);
    rmSync(ballast);
  });

  it('the root of a disk cannot take the name of a finished folder, which is known before', async () => {
    const { code, stderr } = await run('export', '--model', model, '--output', disk!);
    expect(stderr).toMatch(/Expected a new or empty folder for the exported model but received the root of a disk\./);
    expect(code).toBe(EXIT.usage);
    expect(readdirSync(disk!)).toEqual([]);
    mkdirSync(join(disk!, 'empty')); // an empty folder inside it is one like any other
    expect((await run('export', '--model', model, '--output', join(disk!, 'empty'))).code).toBe(EXIT.ok);
  });
});
