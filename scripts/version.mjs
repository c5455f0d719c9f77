/**
 * One version for all packages: the root's. `node scripts/version.mjs` checks that every package and every dependency between packages has
 * it, `node scripts/version.mjs 0.2.0` sets it everywhere.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { packages, readManifest, root } from './packages.mjs';

const [wanted] = process.argv.slice(2);
if (wanted !== undefined && !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(wanted)) {
  console.error(`Expected a version such as 0.2.0 or 0.2.0-rc.1 but received ${wanted}.`);
  process.exit(1);
}
const version = wanted ?? readManifest('.').version;
const names = new Set(packages.map(({ manifest }) => manifest.name));
const wrong = [];

/** Sets the version of one manifest and of its dependencies on others of this repository; notes where it was another. */
function settle(file, manifest) {
  const places = [
    [manifest, 'version'],
    ...['dependencies', 'devDependencies', 'peerDependencies', 'optionalDependencies'].flatMap((kind) =>
      Object.keys(manifest[kind] ?? {})
        .filter((name) => names.has(name))
        .map((name) => [manifest[kind], name]),
    ),
  ];
  for (const [owner, key] of places) {
    if (owner[key] !== version) wrong.push(`Expected ${version} for ${key} in ${file} but received ${owner[key]}.`);
    owner[key] = version;
  }
}

const write = (file, content) => writeFileSync(join(root, file), `${JSON.stringify(content, null, 2)}\n`);
const lock = readManifest('.', 'package-lock.json');
for (const folder of ['.', ...packages.map((one) => one.folder)]) {
  const manifest = readManifest(folder);
  settle(`${folder}/package.json`, manifest);
  settle(`package-lock.json (${folder})`, lock.packages[folder === '.' ? '' : folder]);
  if (wanted !== undefined) write(`${folder}/package.json`, manifest);
}
if (lock.version !== version) wrong.push(`Expected ${version} in package-lock.json but received ${lock.version}.`);
lock.version = version;

if (wanted !== undefined) {
  write('package-lock.json', lock);
  console.log(`All packages have version ${version}.`);
} else if (wrong.length > 0) {
  console.error(`${wrong.join('\n')}\nRun \`node scripts/version.mjs ${version}\`.`);
  process.exitCode = 1;
}
