/** The routes of the page's server. In their order: who may ask, then what. */
import { UserError } from '@minicpm-finetune/run';
import { Hono } from 'hono';
import { ApiError } from '../errors.js';
import { languageOf, sayFor } from '../say.js';
import type { Services } from '../services.js';
import { mountTools } from '../tools/mount.js';
import { mountActions } from './action-routes.js';
import { mountAssets } from './assets.js';
import { compressed } from './compressed.js';
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
  app.use('/api/*', compressed);
  app.onError(async (error, c) => {
    const [{ message, field, cure, status }, say] = [asApiError(error), await sayFor(languageOf(c))];
    const told = new ApiError(status, say(message), { field, cure: cure === null ? null : say(cure) });
    return c.json(told.answer, status as 400);
  });
  mountSession(app, security, services.version);
  mountRuns(app, services);
  mountActions(app, services);
  mountStream(app, services);
  mountTools(app, services);
  mountAssets(app);
  app.notFound(() => {
    throw new ApiError(404, 'Expected an address of the page but there is none.');
  });
  return app;
}

/** What the file system refuses, as a person understands it. */
const REFUSALS: ReadonlySet<string | undefined> = new Set(['EACCES', 'EPERM', 'EROFS', 'ENOSPC', 'EDQUOT']);

function asApiError(error: Error): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof UserError)
    return new ApiError(409, error.message, {
      field: error.flag?.replace(/^--/, '') ?? null,
      cure: error.cure ?? null,
    });
  if (REFUSALS.has((error as NodeJS.ErrnoException).code))
    return new ApiError(403, `The system refuses this: ${error.message}.`, {
      cure: 'Look at the owner of the run folder and at the space on its disk.',
    });
  console.error(error);
  return new ApiError(500, `The server failed at this request: ${error.message}`);
}
