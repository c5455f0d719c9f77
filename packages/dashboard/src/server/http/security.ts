/**
 * Who may ask what. Loopback alone is no boundary: any web page can send requests there (CSRF), a name that resolves to 127.0.0.1 makes it the
 * same origin (DNS rebinding), and other users of the machine reach it as well. So the Host header is checked before anything else, a token
 * is needed for all of /api, and writes need JSON from the page's own origin. There are no CORS headers at all.
 */
import type { Context, MiddlewareHandler } from 'hono';
import { getCookie } from 'hono/cookie';
import { ApiError } from '../errors.js';
import { isSameToken } from './token.js';

export interface SecurityOptions {
  readonly token: string;
  readonly port: number;
  /** Names in a Host header, without port, beside those of the loopback. */
  readonly allowedHosts: readonly string[];
}

/** Largest body of a request, in bytes. */
const LARGEST_BODY = 1 << 20;
/** Bodies that carry pictures. */
const LARGE_BODIES: readonly (readonly [RegExp, number])[] = [[/^\/api\/chat\//, 32 << 20]];

const CONTENT_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' blob:",
  "connect-src 'self'",
  "font-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

const HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy': CONTENT_POLICY,
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cross-origin-resource-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
  'x-frame-options': 'DENY',
};

/** On every answer, also of mistakes. */
export function secureHeaders(c: Context): void {
  for (const [name, value] of Object.entries(HEADERS)) c.res.headers.set(name, value);
  if (c.req.path.startsWith('/api') && !c.res.headers.has('cache-control'))
    c.res.headers.set('cache-control', 'no-store');
}

/** The cookie's name holds the port: cookies are the same for all ports of a host. */
export function cookieName(port: number): string {
  return `mcft-${port}`;
}

/** The names under which the page is reached. */
function hostsOf({ port, allowedHosts }: SecurityOptions): Set<string> {
  const names = ['localhost', '127.0.0.1', '[::1]', ...allowedHosts].map((name) => name.toLowerCase());
  const withPort = names.map((name) => `${name}:${port}`);
  return new Set(port === 80 ? [...withPort, ...names] : withPort);
}

/** Refuses what is not meant for the page: to be called before any route is looked for. */
export function checkHost(options: SecurityOptions): MiddlewareHandler {
  const hosts = hostsOf(options);
  return async (c, next) => {
    const host = c.req.header('host')?.toLowerCase();
    if (host === undefined || !hosts.has(host))
      throw new ApiError(
        421,
        'Expected the name under which the page was started in the Host header but received another one.',
        {
          cure: 'Open the address that `minicpm-finetune ui` prints, or allow this name with --allowed_host.',
        },
      );
    await next();
  };
}

/** Refuses writes that do not come from the page itself or from a program. */
export function checkWrite(options: SecurityOptions): MiddlewareHandler {
  const hosts = hostsOf(options);
  return async (c, next) => {
    const { method } = c.req;
    if (method === 'GET' || method === 'HEAD') return await next();
    if (!['POST', 'PUT', 'DELETE'].includes(method))
      throw new ApiError(405, `Expected GET, POST, PUT or DELETE but received ${method}.`);
    requireOwnOrigin(c, hosts);
    const type = c.req.header('content-type')?.split(';')[0]?.trim().toLowerCase();
    if (type !== 'application/json')
      throw new ApiError(415, 'Expected application/json as the content type of a request that writes.');
    requireSize(c);
    await next();
  };
}

/** A browser says where a request comes from; a program with the token in its header says nothing, and needs to say nothing. */
function requireOwnOrigin(c: Context, hosts: ReadonlySet<string>): void {
  const site = c.req.header('sec-fetch-site');
  const origin = c.req.header('origin');
  const isOwn = origin === undefined ? site === 'same-origin' : isOwnOrigin(origin, hosts);
  const isForeignSite = site !== undefined && site !== 'same-origin';
  const isProgram = origin === undefined && site === undefined && bearerOf(c) !== undefined;
  if ((isOwn && !isForeignSite) || isProgram) return;
  throw new ApiError(403, 'Expected a request of the page itself but received one of another site.', {
    cure: 'Programs send the token as `Authorization: Bearer TOKEN`.',
  });
}

function isOwnOrigin(origin: string, hosts: ReadonlySet<string>): boolean {
  return origin.startsWith('http://') && hosts.has(origin.slice('http://'.length).toLowerCase());
}

function requireSize(c: Context): void {
  const largest = LARGE_BODIES.find(([path]) => path.test(c.req.path))?.[1] ?? LARGEST_BODY;
  const given = c.req.header('content-length');
  const length = Number(given ?? 0);
  if (given === undefined && c.req.header('transfer-encoding') !== undefined)
    throw new ApiError(411, 'Expected a request that says its length (content-length).');
  if (!(length <= largest))
    throw new ApiError(413, `Expected at most ${largest} bytes as the body of a request but received ${given}.`);
}

function bearerOf(c: Context): string | undefined {
  return /^Bearer ([\w-]{1,128})$/.exec(c.req.header('authorization') ?? '')?.[1];
}

/** Refuses what a browser sends for another site, also for a page of another port of this machine. */
export const checkSite: MiddlewareHandler = async (c, next) => {
  const site = c.req.header('sec-fetch-site');
  if (site !== undefined && site !== 'same-origin' && site !== 'none')
    throw new ApiError(403, 'Expected a request of the page itself but received one of another site.');
  await next();
};

/** Refuses all of /api without the token, but the request that brings it. */
export function checkToken({ token, port }: SecurityOptions): MiddlewareHandler {
  return async (c, next) => {
    const isSession = c.req.path === '/api/session' && c.req.method === 'POST';
    const given = bearerOf(c) ?? getCookie(c, cookieName(port));
    if (!isSession && (given === undefined || !isSameToken(given, token)))
      throw new ApiError(401, 'Expected the token of the page but received none, or another one.', {
        cure: 'Open the address with #token=… that `minicpm-finetune ui` prints.',
      });
    await next();
  };
}
