/** The token becomes a cookie that no script can read. */
import type { Hono } from 'hono';
import { setCookie } from 'hono/cookie';
import { z } from 'zod';
import { ApiError } from '../errors.js';
import { bodyOf } from '../tools/body.js';
import { cookieName, type SecurityOptions } from './security.js';
import { isSameToken } from './token.js';

const SESSION = z.strictObject({ token: z.string().max(128) });

export function mountSession(app: Hono, { token, port }: SecurityOptions, version: string): void {
  app.post('/api/session', async (c) => {
    const { token: given } = await bodyOf(c, SESSION);
    if (!isSameToken(given, token))
      throw new ApiError(401, 'Expected the token of the page but received another one.', {
        field: 'token',
        cure: 'Open the address with #token=… that `minicpm-finetune ui` prints.',
      });
    setCookie(c, cookieName(port), token, { httpOnly: true, sameSite: 'Strict', path: '/' });
    return c.json({ version });
  });
  app.get('/api/session', (c) => c.json({ version }));
}
