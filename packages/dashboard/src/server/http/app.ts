/** The routes of the page's server. In their order: who may ask, then what. */
import { Hono } from 'hono';
import { compress } from 'hono/compress';
import { ApiError } from '../errors.js';
import type { Services } from '../services.js';
import { mountTools } from '../tools/mount.js';
import { mountActions } from './action-routes.js';
import { mountAssets } from './assets.js';
import { mountStream } from './event-stream.js';
import { mountRuns } from './run-routes.js';
import { checkHost, checkSite, checkToken, checkWrite, type SecurityOptions, secureHeaders } from './security.js';
import { mountSession } from './session-routes.js';

export function createApp(services: Services, security: SecurityOptions): Hono {
  const app = new Hono();
  app.use(async (c, next) => {
    await next();
    secureHeaders(c);
  });
  app.use(checkHost(security), checkWrite(security));
  app.use('/api/*', checkSite, checkToken(security));
  app.use('/api/*', compress());
  app.onError((error, c) => {
    if (error instanceof ApiError) return c.json(error.answer, error.status as 400);
    console.error(error);
    const message = `The server failed at this request: ${error.message}`;
    return c.json({ error: { message, field: null, cure: null } }, 500);
  });
  mountSession(app, security, services.version);
  mountRuns(app, services);
  mountActions(app, services);
  mountStream(app, services);
  mountTools(app, services);
  mountAssets(app);
  app.notFound((c) => c.json(new ApiError(404, 'Expected an address of the page but there is none.').answer, 404));
  return app;
}
