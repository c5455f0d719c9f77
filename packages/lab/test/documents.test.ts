import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { makePlace } from '../../finetune/test/support/run-place.js';
import { LONG } from '../../torch/test/support/long.js';

const ROOT = join(import.meta.dirname, '..', '..', '..');
const CLI = join(ROOT, 'packages', 'finetune', 'bin', 'minicpm-finetune.js');
const DOCUMENTS = [
  ...['README.md', 'README.zh.md', 'CONTRIBUTING.md', 'SECURITY.md', 'ARCHITECTURE.md', 'CHANGELOG.md', 'LOG.md'],
  ...readdirSync(join(ROOT, 'docs'))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `docs/${name}`),
  ...readdirSync(join(ROOT, 'packages')).map((name) => `packages/${name}/README.md`),
];

const read = (name: string): string => readFileSync(join(ROOT, name), 'utf8');

/** The text of all fenced blocks of a language. */
function blocks(name: string, language: string): string[] {
  return [...read(name).matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\``, 'gm'))].map(
    ([, text]) => text!,
  );
}

/** The commands of a document's shell blocks, one a line, without comments. */
function commands(name: string): string[] {
  return blocks(name, 'bash')
    .flatMap((block) => block.replaceAll('\\\n', ' ').split('\n'))
    .map((line) => line.replace(/\s+#.*$/, '').trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

/** A folder in which the documents' commands work: their models, data and pictures under their names. */
function newcomersFolder(): string {
  const place = makePlace(4);
  const folder = mkdtempSync(join(tmpdir(), 'documents-'));
  for (const owner of ['openbmb', 'models'])
    cpSync(place.model, join(folder, owner, 'MiniCPM-V-2_6'), { recursive: true });
  cpSync(join(ROOT, 'recipes'), join(folder, 'recipes'), { recursive: true });
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'));
  for (const name of ['train.json', 'eval.json', 'test.json']) cpSync(place.data, join(folder, name));
  for (let i = 0; i < 4; i++) cpSync(join(place.folder, `${i}.bmp`), join(folder, `${i}.bmp`));
  cpSync(join(place.folder, '0.bmp'), join(folder, 'photo.jpg'));
  rmSync(place.folder, { recursive: true });
  return folder;
}

describe.each(['README.md', 'docs/data.md'])('%s', (name) => {
  const folder = newcomersFolder();
  afterAll(() => rmSync(folder, { recursive: true }));
  const elsewhere = name === 'README.md' || LONG ? [] : commands('README.md');
  const ours = commands(name).filter((line) => line.startsWith('npx minicpm-finetune ') && !elsewhere.includes(line));

  it('shows commands', () => expect(ours.length).toBeGreaterThan(0));

  it.each(ours)('%s', (line) => {
    const shell = line.replace('npx minicpm-finetune', `"${process.execPath}" "${CLI}"`);
    const env = { ...process.env, XDG_CACHE_HOME: join(folder, 'cache'), HF_HUB_OFFLINE: '1' };
    const { status, stderr } = spawnSync('sh', ['-c', shell], { cwd: folder, env, input: '', encoding: 'utf8' });
    expect(status, stderr).toBe(0);
  });

  it.each(blocks(name, 'ts'))('program %#', (program) => {
    writeFileSync(join(folder, 'program.mjs'), program);
    const env = { ...process.env, XDG_CACHE_HOME: join(folder, 'cache'), HF_HUB_OFFLINE: '1' };
    const { status, stderr } = spawnSync(process.execPath, ['program.mjs'], { cwd: folder, env, encoding: 'utf8' });
    expect(status, stderr).toBe(0);
  });
});

describe('documents', () => {
  it.each(DOCUMENTS)('%s links to files that are there', (name) => {
    const links = [
      ...read(name)
        .replace(/`[^`\n]*`/g, '')
        .matchAll(/\]\(([^)#:]+)(#[^)]*)?\)/g),
    ].map(([, path]) => path!);
    for (const path of links) expect(existsSync(join(ROOT, dirname(name), path)), path).toBe(true);
  });

  const current = DOCUMENTS.filter((name) => name !== 'LOG.md'); // the log names commands as they were
  it.each(current)('%s names npm scripts that are there', (name) => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    const named = [...read(name).matchAll(/npm run ([\w:]+)/g)].map(([, script]) => script!);
    for (const script of named) expect(Object.keys(scripts)).toContain(script);
  });

  it('the READMEs show the same commands', () => {
    expect(commands('README.zh.md')).toEqual(commands('README.md'));
  });

  it('the READMEs have at most 130 lines, CONTRIBUTING.md at most 80', () => {
    for (const name of ['README.md', 'README.zh.md'])
      expect(read(name).trimEnd().split('\n').length).toBeLessThanOrEqual(130);
    expect(read('CONTRIBUTING.md').trimEnd().split('\n').length).toBeLessThanOrEqual(80);
  });
});
