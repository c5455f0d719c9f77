/** Where the page lets commands write. Only below the folders of runs. */
import { existsSync, realpathSync } from 'node:fs';
import { basename, dirname, join, sep } from 'node:path';
import { ApiError } from '../errors.js';

/**
 * The real path of something that need not be there yet.
 *
 * @param field the flag whose value it is
 * @throws ApiError 400: it is not below one of the folders
 */
export function pathBelow(folders: readonly string[], path: string, field: string): string {
  const real = realPath(path);
  const roots = folders.map((root) => realPath(root));
  if (roots.some((root) => real.startsWith(`${root}${sep}`))) return real;
  throw new ApiError(400, `Expected a place below ${roots.join(' or ')} for --${field} but received ${real}.`, {
    field,
    cure: 'Name a place there, or start the page with --runs and the folder above it.',
  });
}

function realPath(path: string): string {
  if (existsSync(path)) return realpathSync(path);
  const above = dirname(path);
  return above === path ? path : join(realPath(above), basename(path));
}
