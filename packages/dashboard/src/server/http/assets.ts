/** The built page. Its files are read once, when the server starts: a request only looks a name up. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { extname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import type { Context, Hono } from 'hono';
import { ApiError } from '../errors.js';

// The built page, whether this file runs from src (tests) or from dist.
const PAGE_FOLDER = fileURLToPath(new URL('../../../dist/page/', import.meta.url));

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.png': 'image/png',
  '.ico': 'image/x-icon',
  '.woff2': 'font/woff2',
  '.json': 'application/json',
};
/** Vite names files by their content; such a name never gets another content. */
const HASHED = /-[\w-]{8}\.\w+$/;

interface Asset {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly gzip: Uint8Array<ArrayBuffer>;
  readonly headers: Readonly<Record<string, string>>;
}

export function mountAssets(app: Hono): void {
  const assets = readAssets();
  const index = assets.get('/index.html');
  app.get('*', (c) => {
    if (c.req.path.startsWith('/api'))
      throw new ApiError(404, `Expected an address of the API but there is no ${c.req.path}.`);
    const asset = assets.get(c.req.path) ?? (c.req.path === '/' ? index : undefined);
    if (asset !== undefined) return send(c, asset);
    if (c.req.path === '/')
      throw new ApiError(503, 'Expected the built page but it is not there.', {
        cure: 'In a clone run `npm run setup`; otherwise install the package again.',
      });
    throw new ApiError(404, 'Expected a file of the page but there is none of this name.');
  });
}

function send(c: Context, { bytes, gzip, headers }: Asset): Response {
  const takesGzip = /\bgzip\b/.test(c.req.header('accept-encoding') ?? '');
  const shared = { ...headers, vary: 'accept-encoding' };
  return takesGzip ? c.body(gzip, 200, { ...shared, 'content-encoding': 'gzip' }) : c.body(bytes, 200, shared);
}

/** Path of a request -> file. */
function readAssets(): Map<string, Asset> {
  if (!existsSync(PAGE_FOLDER)) return new Map();
  const files = readdirSync(PAGE_FOLDER, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(
    files.map((entry) => {
      const path = join(entry.parentPath, entry.name);
      const bytes = Uint8Array.from(readFileSync(path));
      const headers = {
        'content-type': TYPES[extname(entry.name)] ?? 'application/octet-stream',
        'cache-control': HASHED.test(entry.name) ? 'public, max-age=31536000, immutable' : 'no-cache',
      };
      const asset = { bytes, gzip: Uint8Array.from(gzipSync(bytes)), headers };
      return [`/${relative(PAGE_FOLDER, path).split(sep).join('/')}`, asset];
    }),
  );
}
