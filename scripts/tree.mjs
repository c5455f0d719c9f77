/**
 * The README's file tree, made from the first sentence of every source file. `node scripts/tree.mjs` checks it, `--write` brings it up to date.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const FOLDERS = [
  'packages/torch/native',
  'packages/torch/scripts',
  'packages/torch/src',
  'packages/run/src',
  'packages/processor/src',
  'packages/minicpm-v/src',
  'packages/finetune/src',
  'packages/lab/src',
  'packages/lab/python',
  'scripts',
];
const LONGEST = 130;
const BEGIN = '<!-- file tree: node scripts/tree.mjs --write -->';
const END = '<!-- end of file tree -->';

function firstSentence(path) {
  const text = readFileSync(path, 'utf8').replace(/^#!.*\n/, '');
  const block =
    /^\s*\/\*\*?([\s\S]*?)\*\//.exec(text)?.[1] ??
    /^((?:\/\/.*\n)+)/.exec(text)?.[1] ??
    /^\s*"""([\s\S]*?)"""/.exec(text)?.[1] ??
    '';
  const plain = block
    .replace(/^\s*(\*|\/\/)( |$)?/gm, '')
    .replace(/\s+/g, ' ')
    .trim();
  const sentence = /^(.*?)\.( |$)/.exec(plain)?.[1] ?? plain;
  return sentence.length <= LONGEST ? sentence : `${sentence.slice(0, sentence.lastIndexOf(' ', LONGEST))} …`;
}

function* filesOf(folder) {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true }).sort((a, b) =>
    a.name < b.name ? -1 : 1,
  )) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* filesOf(path);
    else if (/\.(ts|mjs|cc|h|py)$/.test(entry.name) && entry.name !== 'index.ts') yield path;
  }
}

function tree() {
  const lines = [];
  for (const folder of FOLDERS) {
    lines.push(`${folder}/`);
    for (const path of filesOf(folder))
      lines.push(`  ${path.slice(folder.length + 1).padEnd(30)} ${firstSentence(join(root, path))}`);
  }
  return `${BEGIN}\n\n\`\`\`text\n${lines.join('\n')}\n\`\`\`\n\n${END}`;
}

const file = join(root, 'README.md');
const readme = readFileSync(file, 'utf8');
const start = readme.indexOf(BEGIN);
const end = readme.indexOf(END) + END.length;
const wanted = readme.slice(0, start) + tree() + readme.slice(end);
if (wanted !== readme) {
  if (process.argv.includes('--write')) writeFileSync(file, wanted);
  else {
    console.error('README.md: the file tree is not that of the sources. Run `node scripts/tree.mjs --write`.');
    process.exitCode = 1;
  }
}
