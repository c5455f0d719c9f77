/**
 * Publishes all packages to npm with provenance. `node scripts/publish.mjs v0.2.0 https://HOST/OWNER/NAME`. The tag
 * must name the version of the packages, and the prebuilt addon of every platform must be there and fit. `--dry-run`
 * does all but publish. The release workflow runs it.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sourcesHash } from '../packages/torch/scripts/compile.mjs';
import { prebuiltFolder } from '../packages/torch/scripts/prebuilt.mjs';
import { publicPackages, readManifest, root } from './packages.mjs';

const PLATFORMS = ['linux-x64', 'linux-arm64', 'darwin-arm64'];
const torch = join(root, 'packages', 'torch');

function run(command, words, cwd) {
  const { status } = spawnSync(command, words, { cwd, stdio: 'inherit' });
  if (status !== 0)
    throw new Error(`Expected \`${command} ${words.join(' ')}\` to succeed but it ended with ${status}.`);
}

/** Throws unless the addon of a platform is there, for this version and these sources. */
function checkPrebuilt(platform, version) {
  const file = join(prebuiltFolder(torch, platform), 'torch.json');
  if (!existsSync(file))
    throw new Error(`Expected ${file} but it is not there. Run \`node scripts/release.mjs\` on ${platform}.`);
  const record = JSON.parse(readFileSync(file, 'utf8'));
  const wanted = { version, platform, sources: sourcesHash(torch) };
  for (const [key, value] of Object.entries(wanted)) {
    if (record[key] !== value)
      throw new Error(`Expected ${key} ${value} in ${file} but received ${record[key]}. Build it again.`);
  }
}

/** Publishes one package. npm's provenance asks for the repository in package.json, and only the release knows where that is. */
function publish({ folder, manifest }, url, words) {
  const repository = { type: 'git', url: `git+${url}.git`, directory: folder };
  const places = { repository, homepage: `${url}#readme`, bugs: `${url}/issues` };
  const file = join(root, folder, 'package.json');
  const before = readFileSync(file);
  writeFileSync(file, `${JSON.stringify({ ...manifest, ...places }, null, 2)}\n`);
  try {
    run('npm', ['publish', ...words], join(root, folder));
  } finally {
    writeFileSync(file, before);
  }
}

function main() {
  const dry = process.argv.includes('--dry-run');
  const [tag, url] = process.argv.slice(2).filter((word) => word !== '--dry-run');
  const { version } = readManifest('.');
  if (tag !== `v${version}`) throw new Error(`Expected the tag v${version} but received ${tag}.`);
  if (!URL.canParse(url)) throw new Error(`Expected the address of the repository but received ${url}.`);
  run(process.execPath, ['scripts/version.mjs'], root);
  for (const platform of PLATFORMS) checkPrebuilt(platform, version);
  const channel = version.includes('-') ? ['--tag', 'next'] : [];
  for (const one of publicPackages) publish(one, url, [dry ? '--dry-run' : '--provenance', ...channel]);
}

try {
  main();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
