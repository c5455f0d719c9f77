/**
 * The file trees of the package READMEs. They are made from the first sentence of every source file. `node
 * scripts/tree.mjs` checks them and refuses a first sentence that is missing or longer than 60 characters, and a blank
 * line between that comment and the imports; `--write` brings them up to date.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const FOLDERS = ['bin', 'native', 'page', 'python', 'scripts', 'src'];
const LONGEST = 60;
const BEGIN = '<!-- file tree: node scripts/tree.mjs --write -->';
const END = '<!-- end of file tree -->';
const complaints = [];

/** The first sentence of the comment that opens a file. */
function firstSentence(path) {
  const text = readFileSync(join(root, path), 'utf8').replace(/^#!.*\n/, '');
  if (/^\/\*\*(?:[^*]|\*(?!\/))*\*\/\n\nimport /.test(text))
    complaints.push(`${path}: Expected the first import right after the comment at the top but received a blank line.`);
  const block =
    /^\s*\/\*\*?([\s\S]*?)\*\//.exec(text)?.[1] ??
    /^<!--([\s\S]*?)-->/.exec(text)?.[1] ??
    /^((?:(?:\/\/|;;).*\n)+)/.exec(text)?.[1] ??
    /^\s*"""([\s\S]*?)"""/.exec(text)?.[1] ??
    '';
  const plain = block
    .replace(/^\s*(\*|\/\/|;;)( |$)?/gm, '')
    .replace(/\s+/g, ' ')
    .trim();
  const sentence = /^(.*?)\.( |$)/.exec(plain)?.[1] ?? plain;
  if (sentence === '')
    complaints.push(`${path}: Expected a comment at the top that says what the file is but received none.`);
  else if (sentence.length > LONGEST)
    complaints.push(
      `${path}: Expected a first sentence of at most ${LONGEST} characters but received ${sentence.length}: ` +
        `"${sentence}". Say the rest in a second sentence.`,
    );
  return sentence;
}

function* filesOf(folder) {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true }).sort((a, b) =>
    a.name < b.name ? -1 : 1,
  )) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* filesOf(path);
    else if (/\.(ts|svelte|css|js|mjs|cc|h|py|wat)$/.test(entry.name)) yield path;
  }
}

function tree(folder) {
  const lines = [];
  for (const name of FOLDERS.filter((name) => existsSync(join(root, folder, name)))) {
    const files = [...filesOf(join(folder, name))].map((path) => [path.slice(join(folder, name).length + 1), path]);
    const width = Math.max(...files.map(([short]) => short.length));
    lines.push(`${name}/`, ...files.map(([short, path]) => `  ${short.padEnd(width)}  ${firstSentence(path)}`));
  }
  return `${BEGIN}\n\n\`\`\`text\n${lines.join('\n')}\n\`\`\`\n\n${END}`;
}

for (const entry of readdirSync(join(root, 'packages'), { withFileTypes: true })) {
  const folder = join('packages', entry.name);
  if (!existsSync(join(root, folder, 'package.json'))) continue;
  const readme = join(folder, 'README.md');
  const now = existsSync(join(root, readme)) ? readFileSync(join(root, readme), 'utf8') : '';
  if (!now.includes(BEGIN) || !now.includes(END)) {
    complaints.push(`${readme}: Expected a README with the lines "${BEGIN}" and "${END}" but received none.`);
    continue;
  }
  const wanted = now.slice(0, now.indexOf(BEGIN)) + tree(folder) + now.slice(now.indexOf(END) + END.length);
  if (wanted === now) continue;
  if (process.argv.includes('--write')) writeFileSync(join(root, readme), wanted);
  else complaints.push(`${readme}: the file tree is not that of the sources. Run \`node scripts/tree.mjs --write\`.`);
}
for (const path of filesOf('scripts')) firstSentence(path);
for (const complaint of complaints) console.error(complaint);
if (complaints.length > 0) process.exitCode = 1;
