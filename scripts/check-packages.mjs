/**
 * Packs the public packages and checks what npm would get. publint looks at the package.json files, attw (Are the types wrong?) at the
 * types that a program sees; and no file is missing or has lost its source.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { publicPackages, root } from './packages.mjs';

const folder = mkdtempSync(join(tmpdir(), 'minicpm-finetune-packages-'));
const wrong = [];

/** Packs all public packages and returns npm's report of each. */
function pack() {
  const which = publicPackages.flatMap((one) => ['--workspace', one.folder]);
  const { status, stdout, stderr } = spawnSync('npm', ['pack', ...which, '--json', '--pack-destination', folder], {
    cwd: root,
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`Expected \`npm pack\` to succeed but received:\n${stderr}`);
  const packed = JSON.parse(stdout.slice(stdout.search(/^[[{]/m)));
  return Array.isArray(packed) ? packed : Object.values(packed);
}

/** What a tarball must have, and what it must not. */
function checkFiles(place, name, files) {
  for (const needed of ['LICENSE', 'README.md', 'package.json']) {
    if (!files.includes(needed)) wrong.push(`Expected ${needed} in ${name} but it is not there.`);
  }
  const source = new Set(files.filter((path) => path.startsWith('src/')).map((path) => path.replace(/\.\w+$/, '')));
  for (const path of files) {
    if (path.startsWith('dist/page/')) continue; // what Vite makes; the check below wants it whole
    const output = /^dist\/(.*?)\.(d\.ts|js)(\.map)?$/.exec(path);
    const known = output
      ? source.has(`src/${output[1]}`)
      : /^(src|bin|native|prebuilds|scripts)\/|^[A-Z]+\.md$/.test(path);
    if (!known && !['LICENSE', 'package.json'].includes(path))
      wrong.push(`Expected no ${path} in ${name}: it has no source.`);
  }
  if (existsSync(join(root, place, 'page')) && !files.includes('dist/page/index.html'))
    wrong.push(`Expected dist/page/index.html in ${name} but it is not there. Build the page.`);
  const license = join(root, place, 'LICENSE');
  if (!existsSync(license) || readFileSync(license, 'utf8') !== readFileSync(join(root, 'LICENSE'), 'utf8'))
    wrong.push(`Expected ${place}/LICENSE to equal LICENSE but it does not. Copy it.`);
}

async function check({ folder: place, manifest }, { filename, files }) {
  const { name } = manifest;
  checkFiles(
    place,
    name,
    files.map(({ path }) => path),
  );
  const tarball = readFileSync(join(folder, filename));
  const bytes = tarball.buffer.slice(tarball.byteOffset, tarball.byteOffset + tarball.byteLength);
  const linted = await publint({ pack: { tarball: bytes }, strict: true });
  for (const message of linted.messages)
    wrong.push(`${name}: publint: ${formatMessage(message, linted.pkg) ?? message.code}`);
  const { problems = [] } = await checkPackage(createPackageFromTarballData(new Uint8Array(bytes)));
  // The packages are ES modules for node16 and bundlers; TypeScript's resolution of 2012 ("node10") does not know `exports`.
  for (const problem of problems) {
    if (problem.resolutionKind === 'node10' || problem.kind === 'CJSResolvesToESM') continue;
    wrong.push(`${name}: attw: ${JSON.stringify(problem)}`);
  }
}

try {
  const packed = pack();
  for (const one of publicPackages)
    await check(
      one,
      packed.find(({ name }) => name === one.manifest.name),
    );
} finally {
  rmSync(folder, { recursive: true, force: true });
}
for (const line of wrong) console.error(line);
process.exitCode = wrong.length === 0 ? 0 : 1;
