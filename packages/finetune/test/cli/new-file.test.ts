/** Output files of one piece: new, or the same as before, or refused. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takeLock } from '@minicpm-finetune/run';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { writeNewFile } from '../../src/cli/shared/new-file.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'new-file-'));
});
afterEach(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
const write = (name: string, text = 'new'): void => writeNewFile(at(name), Buffer.from(text), '--contact_sheet');

it('is written whole, with its folder, and may be written again as it is', () => {
  write('a/sheet.png');
  write('a/sheet.png');
  expect(readFileSync(at('a/sheet.png'), 'utf8')).toBe('new');
  expect(readdirSync(at('a'))).toEqual(['sheet.png']);
});

it('is refused where there is another file, a folder or a link', () => {
  writeFileSync(at('data.json'), 'mine');
  symlinkSync(at('data.json'), at('link.png'));
  symlinkSync(at('nowhere'), at('dangling.png'));
  for (const name of ['data.json', 'link.png', 'dangling.png', '.'])
    expect(() => write(name), name).toThrow(/Expected a new file for --contact_sheet/);
  expect(readFileSync(at('data.json'), 'utf8')).toBe('mine');
  expect(readdirSync(folder).sort()).toEqual(['dangling.png', 'data.json', 'link.png']);
});

it('is refused while another process writes it, and where nothing can be written', () => {
  const lock = takeLock(`${at('sheet.png')}.lock`, { what: 'sheet.png' });
  expect(() => write('sheet.png')).toThrow(/in use by process/);
  lock.release();
  writeFileSync(at('file'), '');
  expect(() => write('file/sheet.png')).toThrow(/Expected to write .*sheet\.png but received/);
});
