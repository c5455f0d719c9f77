/**
 * Makes `dist` of a package ready to be packed. Compiles it and removes outputs whose source is gone. npm runs this
 * before `npm pack`.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './packages.mjs';

const compiler = join(root, 'node_modules', 'typescript', 'bin', 'tsc');
const { status } = spawnSync(process.execPath, [compiler, '-b'], { stdio: ['ignore', 2, 2] });
for (const file of readdirSync('dist', { recursive: true })) {
  const output = /^(.*?)\.(d\.ts|js)(\.map)?$/.exec(file);
  if (output && !existsSync(join('src', `${output[1]}.ts`))) rmSync(join('dist', file));
}
process.exitCode = status ?? 1;
