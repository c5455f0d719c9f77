/**
 * Fetches wheels with pip where Node cannot. pip knows the mirrors, proxies and certificates that its user configured.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const ARCH = { x64: 'x86_64', arm64: 'aarch64' };

/** pip's names of the platforms whose wheels run here: pip does not add the older ones by itself. */
function pipPlatforms(platform) {
  const [system, arch] = platform.split('-');
  if (system === 'darwin') return [14, 13, 12, 11].map((version) => `macosx_${version}_0_arm64`);
  const names = ['manylinux2014', 'manylinux2010', 'manylinux1', 'linux'];
  for (let minor = 28; minor >= 5; minor--) names.push(`manylinux_2_${minor}`);
  return names.map((name) => `${name}_${ARCH[arch]}`);
}

/**
 * Fetches the wheel that `requirement` (`name==version`) names into `folder` and returns its file name. pip checks it against the hash of its
 * index.
 *
 * @throws with pip's last line when it fails.
 */
export function pipDownload({ interpreter, requirement, folder, platform, python, index }) {
  const temporary = mkdtempSync(join(folder, 'pip-'));
  try {
    const args = [
      '-m',
      'pip',
      'download',
      '--no-deps',
      '--only-binary=:all:',
      '--retries',
      '1',
      '--quiet',
      '--dest',
      temporary,
    ];
    if (index) args.push('--index-url', index);
    for (const name of pipPlatforms(platform)) args.push('--platform', name);
    const tag = `cp${python.replace('.', '')}`;
    args.push(
      '--implementation',
      'cp',
      '--python-version',
      python,
      '--abi',
      tag,
      '--abi',
      'abi3',
      '--abi',
      'none',
      requirement,
    );
    const run = spawnSync(interpreter, args, { encoding: 'utf8' });
    if (run.status !== 0) {
      const line = (run.stderr ?? '')
        .trim()
        .split('\n')
        .filter((text) => text.startsWith('ERROR'))
        .at(-1);
      throw new Error(line ?? `${interpreter} -m pip ended with ${run.status ?? run.signal ?? run.error?.message}`);
    }
    const file = readdirSync(temporary).find((name) => name.endsWith('.whl'));
    if (file === undefined) throw new Error(`pip fetched no wheel for ${requirement}`);
    renameSync(join(temporary, file), join(folder, file));
    return file;
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}
