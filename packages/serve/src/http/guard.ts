/**
 * Who may ask. The Host header is looked at before anything else: a web page reaches a server on this machine by a name of its own
 * that resolves to it (DNS rebinding), and only the name tells. Then the page that asks (CORS), then the key.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { ApiError } from '../api/error.js';

export interface GuardOptions {
  /** Names and addresses of this server besides those of the loopback, with or without a port. */
  readonly allowedHosts: readonly string[];
  /** Origins of web pages that may ask, as browsers write them; empty: none. */
  readonly corsOrigins: readonly string[];
  /** null: everybody who reaches the server may ask. */
  readonly apiKey: string | null;
}

const LOOPBACK = ['localhost', '127.0.0.1', '[::1]'];

/** @throws ApiError 421 for a Host that is none of this server's */
export function checkHost({ headers, socket }: IncomingMessage, { allowedHosts }: GuardOptions): void {
  const host = (headers.host ?? '').toLowerCase();
  const port = socket.localPort;
  const own = LOOPBACK.flatMap((name) => (port === 80 ? [name, `${name}:80`] : [`${name}:${port}`]));
  const bare = host.replace(/:\d+$/, '');
  if (own.includes(host) || allowedHosts.some((one) => [host, bare].includes(one.toLowerCase()))) return;
  throw new ApiError(
    421,
    'This server does not answer under the name in the Host header. Its operator adds names with --allowed_host.',
    {
      code: 'host_not_allowed',
    },
  );
}

/** @throws ApiError 403 for a request of a web page that is not allowed */
export function checkOrigin(headers: Headers, { corsOrigins }: GuardOptions): void {
  const origin = headers.get('origin');
  const crossSite = origin !== null || ['cross-site', 'same-site'].includes(headers.get('sec-fetch-site') ?? '');
  if (!crossSite || (origin !== null && corsOrigins.includes(origin))) return;
  throw new ApiError(403, 'Web pages of other origins may not ask this server. Its operator allows them with --cors.', {
    code: 'origin_not_allowed',
  });
}

/** @throws ApiError 401 without the key */
export function checkKey(headers: Headers, { apiKey }: GuardOptions): void {
  if (apiKey === null) return;
  const given = /^Bearer +(.*)$/i.exec(headers.get('authorization') ?? '')?.[1];
  if (given !== undefined && timingSafeEqual(digest(given), digest(apiKey))) return;
  const what = given === undefined ? 'none was sent. Send it as "Authorization: Bearer KEY"' : 'another one was sent';
  throw new ApiError(401, `Expected the API key of this server but ${what}.`, { code: 'invalid_api_key' });
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/** Headers that let the page of an allowed origin read an answer; empty for other requests. */
export function corsHeaders(headers: Headers, { corsOrigins }: GuardOptions): Record<string, string> {
  const origin = headers.get('origin');
  if (origin === null || !corsOrigins.includes(origin)) return corsOrigins.length > 0 ? { vary: 'Origin' } : {};
  return {
    'access-control-allow-origin': origin,
    'access-control-allow-methods': 'GET, POST',
    'access-control-allow-headers': headers.get('access-control-request-headers') ?? 'authorization, content-type',
    'access-control-expose-headers': 'x-request-id, retry-after',
    'access-control-max-age': '600',
    vary: 'Origin, Access-Control-Request-Headers',
  };
}
