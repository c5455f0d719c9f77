/**
 * Makes `dist` of a package ready to be packed. Compiles it, builds the page, and removes outputs whose source is gone. npm runs this
 * before `npm pack`.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { root } from './packages.mjs';

const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
const { status } = spawnSync(process.execPath, [compiler, '-b'], { stdio: ['ignore', 2, 2] });
if (existsSync('page'))
  await (await import(pathToFileURL(join(process.cwd(), 'scripts', 'build-page.mjs')))).buildPage();
for (const file of readdirSync('dist', { recursive: true })) {
  const output = /^(.*?)\.(d\.ts|js)(\.map)?$/.exec(file);
  if (output && !/^page[\\/]/.test(file) && !existsSync(join('src', `${output[1]}.ts`))) rmSync(join('dist', file));
}
process.exitCode = status ?? 1;
