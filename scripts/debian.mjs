/** Programs that tests need. Found in the PATH, or installed from Debian where that may be. */
import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** Whether a file is there that may be executed. */
export function isProgram(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The path of the first program of these names in the PATH. */
export function inPath(names) {
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  return folders.flatMap((folder) => names.map((name) => join(folder, name))).find(isProgram);
}

/** Whether this is root on Debian; some of Ubuntu's packages are snaps, which a container cannot run. */
export function mayInstall() {
  const release = existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '';
  return process.getuid?.() === 0 && /^ID=debian$/m.test(release);
}

function apt(...words) {
  const environment = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const { status } = spawnSync('apt-get', ['-qq', ...words], { stdio: ['ignore', 'ignore', 2], env: environment });
  return status === 0;
}

/** Installs a package of Debian, from the lists that are there or else from new ones. Returns whether that worked. */
export function installPackage(name) {
  const install = () => apt('install', '-y', '--no-install-recommends', name);
  return install() || (apt('update') && install());
}

/**
 * Finds a program of one of `names`, or installs Debian's `name` that brings it.
 *
 * @returns `{ path }`, or `{ reason }` why there is none.
 */
export function findProgram(name, names, hint, say) {
  const found = inPath(names);
  if (found) return { path: found };
  if (!mayInstall()) return { reason: `no ${name}: ${hint} (Debian as root: apt-get install ${name})` };
  say(`installing Debian's ${name}`);
  const path = installPackage(name) ? inPath(names) : undefined;
  return path ? { path } : { reason: `\`apt-get install ${name}\` failed` };
}
