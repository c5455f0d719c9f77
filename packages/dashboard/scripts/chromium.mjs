/** Finds a Chromium for the browser tests. Where it may, it installs Debian's. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** The configuration of vitest for the tests that need one. */
export const BROWSER_TESTS = 'packages/dashboard/test/browser/vitest.config.ts';

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'];

function isProgram(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function inPath() {
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  return folders.flatMap((folder) => NAMES.map((name) => join(folder, name))).find(isProgram);
}

/** Debian's package; Ubuntu's is a snap, which a container cannot run. */
function mayInstall() {
  const release = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '';
  return process.getuid?.() === 0 && /^ID=debian$/m.test(release);
}

function apt(...words) {
  const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const { status } = spawnSync('apt-get', ['-qq', ...words], { stdio: ['ignore', 'ignore', 2], env: environment });
  return status === 0;
}

/** Installs a Chinese font where it may, so that pictures show the characters. */
export function installChineseFont() {
  return mayInstall() && apt('install', '-y', '--no-install-recommends', 'fonts-wqy-microhei');
}

/**
 * The path of a Chromium: CHROMIUM, else of the PATH, else Debian's after it was installed.
 *
 * @returns `{ path }`, or `{ reason }` why there is none.
 * @throws Error where CHROMIUM names none.
 */
export function findChromium(say) {
  const named = process.env.CHROMIUM;
  if (named) {
    if (!isProgram(named)) throw new Error(`Expected a program in CHROMIUM but received ${named}.`);
    return { path: named };
  }
  const found = inPath();
  if (found) return { path: found };
  if (!mayInstall())
    return { reason: 'no Chromium: set CHROMIUM to one, or install it (Debian as root: apt-get install chromium)' };
  say("installing Debian's chromium");
  const installed =
    apt('install', '-y', '--no-install-recommends', 'chromium') ||
    (apt('update') && apt('install', '-y', '--no-install-recommends', 'chromium'));
  const path = installed ? inPath() : undefined;
  return path ? { path } : { reason: '`apt-get install chromium` failed' };
}
