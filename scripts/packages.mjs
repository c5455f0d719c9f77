/** The packages of this repository. As their package.json files say. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

export const readManifest = (folder, file = 'package.json') =>
  JSON.parse(readFileSync(join(root, folder, file), 'utf8'));

/** `{ folder, manifest }` of each workspace, in the order of the root's package.json. */
export const packages = readManifest('.').workspaces.map((folder) => ({ folder, manifest: readManifest(folder) }));

/** The packages that npm gets: all but the private ones. */
export const publicPackages = packages.filter(({ manifest }) => manifest.private !== true);
