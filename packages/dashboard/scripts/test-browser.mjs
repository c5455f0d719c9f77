/**
 * The tests of the page in a real browser. `npm run test:browser`; `-- --screenshots` also writes the pictures of docs/page.md. Other words go
 * to vitest.
 */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { BROWSER_TESTS, findChromium, installChineseFont } from './chromium.mjs';

const root = join(import.meta.dirname, '..', '..', '..');
const words = process.argv.slice(2);
const screenshots = words.includes('--screenshots');
const { path, reason } = findChromium((line) => console.error(line));

if (path === undefined) console.log(`browser tests skipped: ${reason}`);
else {
  if (screenshots) installChineseFont();
  const others = words.filter((word) => word !== '--screenshots');
  const { status } = spawnSync(
    process.execPath,
    ['node_modules/vitest/vitest.mjs', 'run', '--config', BROWSER_TESTS, ...others],
    {
      cwd: root,
      stdio: 'inherit',
      env: { ...process.env, CHROMIUM: path, ...(screenshots ? { SCREENSHOTS: join(root, 'docs', 'page') } : {}) },
    },
  );
  process.exitCode = status ?? 1;
}
