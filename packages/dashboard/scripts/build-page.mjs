/** Builds the page into `dist/page`. Skips it when neither its sources nor the installed packages have changed. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const folder = join(import.meta.dirname, '..');
const stamp = join(folder, 'dist', '.page-sources');

/** A hash of everything that the page is made from. */
function hashOfSources() {
  const hash = createHash('sha256').update(readFileSync(join(folder, '..', '..', 'package-lock.json')));
  for (const source of ['page', 'src/shared', '../run/src']) {
    const files = readdirSync(join(folder, source), { recursive: true }).sort();
    for (const file of files.map((name) => join(folder, source, name)).filter((path) => statSync(path).isFile()))
      hash.update(`\n${file.slice(folder.length)}\n`).update(readFileSync(file));
  }
  return hash.digest('hex');
}

/** Builds what has changed, and returns what was done in a few words. */
export async function buildPage() {
  const hash = hashOfSources();
  const built = existsSync(join(folder, 'dist', 'page', 'index.html'));
  if (built && existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return 'page: up to date';
  const started = Date.now();
  const { build } = await import('vite');
  await build({ configFile: join(folder, 'page', 'vite.config.ts') });
  writeFileSync(stamp, hash);
  return `page built in ${((Date.now() - started) / 1000).toFixed(1)} s`;
}

if (process.argv[1] === import.meta.filename) console.error(await buildPage());
