/** Finds a Chromium for the browser tests. Where it may, it installs Debian's. */
import { findProgram, installPackage, isProgram, mayInstall } from '../../../scripts/debian.mjs';

/** The configuration of vitest for the tests that need one. */
export const BROWSER_TESTS = 'packages/dashboard/test/browser/vitest.config.ts';

/** How tests start it: without a window, and without asking anybody for anything. */
export const CHROMIUM_FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const NAMES = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'];

/** Installs a Chinese font where it may, so that pictures show the characters. */
export function installChineseFont() {
  return mayInstall() && installPackage('fonts-wqy-microhei');
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
  return findProgram('chromium', NAMES, 'set CHROMIUM to one, or install it', say);
}
