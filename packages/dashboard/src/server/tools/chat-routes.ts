/** The routes of the screen Chat. Conversations are the page's; the server holds models. */
import type { Context, Hono } from 'hono';
import { z } from 'zod';
import { languageOf, sayFor } from '../say.js';
import { bodyOf } from './body.js';
import type { ChatModels } from './chat-models.js';
import { type RunPlace, weightsOfModel, weightsOfRun } from './chat-source.js';

const START = z.strictObject({
  source: z.union([
    z.strictObject({ run: z.string().min(1), step: z.union([z.number().int().min(0), z.null(), z.literal('base')]) }),
    z.strictObject({
      model: z
        .string()
        .min(1)
        .max(4096)
        .regex(/^[^\0]*$/, 'a text without the character NUL'),
    }),
  ]),
  dtype: z.enum(['float32', 'bfloat16', 'float16']).optional(),
});
const QUESTION = z.record(z.string(), z.unknown());
/** Headers of an answer that are passed on. */
const PASSED = ['content-type', 'x-request-id', 'retry-after', 'x-accel-buffering'];

export function mountChat(
  app: Hono,
  models: ChatModels,
  { runOf, cwd }: { readonly runOf: (id: string) => RunPlace; readonly cwd: string },
): void {
  app.get('/api/chat', async (c) => {
    const say = await sayFor(languageOf(c));
    const told = models.list().map((one) => ({
      ...one,
      error: one.error === null ? null : say(one.error),
      notices: one.notices.map((notice) => say(notice)),
    }));
    return c.json({ models: told });
  });
  app.post('/api/chat', async (c) => {
    const { source, dtype = null } = await bodyOf(c, START);
    const weights = 'run' in source ? weightsOfRun(runOf(source.run), source.step) : weightsOfModel(source.model, cwd);
    return c.json(models.open(source, weights, dtype));
  });
  app.post('/api/chat/:id/close', (c) => {
    models.close(c.req.param('id'));
    return c.json({});
  });
  app.post('/api/chat/:id/v1/chat/completions', async (c) => {
    const body = await bodyOf(c, QUESTION);
    return passed(await models.ask(c.req.param('id'), body, goneSignal(c)));
  });
}

/** Is aborted when the client goes. */
function goneSignal(c: Context): AbortSignal {
  return c.req.raw.signal;
}

function passed(answer: Response): Response {
  const headers = new Headers({ 'cache-control': 'no-store' });
  for (const name of PASSED) {
    const value = answer.headers.get(name);
    if (value !== null) headers.set(name, value);
  }
  return new Response(answer.body, { status: answer.status, headers });
}
