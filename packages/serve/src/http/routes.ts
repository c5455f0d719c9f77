/** The endpoints. */
import { randomUUID } from 'node:crypto';
import { type Context, Hono } from 'hono';
import { z } from 'zod';
import type { AnswerHead } from '../api/answer.js';
import { boolean, checked, text } from '../api/check.js';
import { ApiError, asApiError } from '../api/error.js';
import { type ChatRequest, checkChatRequest } from '../api/request.js';
import type { Answering } from '../engine/answering.js';
import type { ChatEngine } from '../engine/engine.js';
import { jsonBody } from './body.js';
import { checkKey, checkOrigin, corsHeaders, type GuardOptions } from './guard.js';
import { eventStream, type Source, wholeAnswer } from './stream.js';

export interface AppOptions extends GuardOptions {
  /** The model once it is loaded; null before. */
  readonly engine: () => ChatEngine | null;
  /** Milliseconds between signs of life of an answer that takes long. */
  readonly beat: number;
  /** Is told what went wrong inside. */
  readonly onError: (error: unknown) => void;
}

const OTHERS: Readonly<Record<string, string>> = {
  '/v1/completions': 'Plain completions are not offered: send the text as a message to /v1/chat/completions.',
  '/v1/embeddings': 'The models make no embeddings.',
  '/v1/responses': 'The Responses API is not offered: use /v1/chat/completions.',
  '/v1/messages': 'This form is not offered: use /v1/chat/completions.',
};

/** The application, without the check of the Host header, which comes before it. */
export function makeApp(options: AppOptions): Hono {
  const app = new Hono();
  app.use('*', async (c, next) => {
    const requestId = `req_${randomUUID().replaceAll('-', '')}`;
    await next();
    const extra = {
      'x-request-id': requestId,
      'x-content-type-options': 'nosniff',
      ...corsHeaders(c.req.raw.headers, options),
    };
    for (const [name, value] of Object.entries(extra)) c.res.headers.set(name, value);
  });
  app.onError((error, c) => {
    if (!(error instanceof ApiError)) options.onError(error); // the engine told of its own
    const answer = asApiError(error);
    return c.json(answer.body(), answer.status as 400, answer.headers());
  });
  app.notFound((c) => {
    const { path, method } = c.req;
    const isModel = path.startsWith('/v1/models/') && path !== '/v1/models/';
    const known = isModel || app.routes.some((route) => route.path === path && route.method !== 'ALL');
    if (known) throw new ApiError(405, `${path} does not take ${method}.`, { code: 'method_not_allowed' });
    const why = OTHERS[path] ?? 'There are GET /v1/models, POST /v1/chat/completions, GET /health and GET /metrics.';
    throw new ApiError(404, `There is no ${path.slice(0, 80)} here. ${why}`, { code: 'unknown_url' });
  });
  app.use('*', async (c, next) => {
    const { headers } = c.req.raw;
    checkOrigin(headers, options);
    if (c.req.method === 'OPTIONS') return c.body(null, 204);
    if (c.req.path !== '/health') checkKey(headers, options);
    return await next();
  });
  addRoutes(app, options);
  return app;
}

function addRoutes(app: Hono, options: AppOptions): void {
  const ready = (): ChatEngine => {
    const engine = options.engine();
    if (engine !== null) return engine;
    throw new ApiError(503, 'Loading model', { code: 'model_loading', retryAfter: 1 });
  };
  app.get('/health', (c) => {
    if (options.engine() !== null) return c.json({ status: 'ok' });
    return c.json({ error: { code: 503, message: 'Loading model', type: 'unavailable_error' } }, 503);
  });
  app.get('/metrics', (c) =>
    c.text(ready().metricsText(), 200, { 'content-type': 'text/plain; version=0.0.4; charset=utf-8' }),
  );
  app.get('/v1/models', (c) => c.json({ object: 'list', data: ready().models.cards() }));
  app.get('/v1/models/:id{.+}', (c) => {
    const { models } = ready();
    return c.json(models.card(models.get(c.req.param('id'))));
  });
  app.post('/v1/chat/completions', async (c) => await complete(c, ready(), options));
  app.post('/v1/load_lora_adapter', async (c) => {
    const engine = ready();
    const { lora_name, lora_path, load_inplace } = checked(LOAD, await jsonBody(c.req.raw));
    return c.json(engine.loadAdapter(lora_name, lora_path, load_inplace ?? false));
  });
  app.post('/v1/unload_lora_adapter', async (c) => {
    const engine = ready();
    const { lora_name } = checked(UNLOAD, await jsonBody(c.req.raw));
    return c.json(engine.unloadAdapter(lora_name));
  });
}

const NAME = { error: 'a name of 1 to 200 characters, none of them white space' };
const lora_name = text(NAME.error).regex(/^[^\s\p{Cc}]{1,200}$/u, NAME);
const LOAD = z.strictObject(
  {
    lora_name,
    lora_path: text('the path of a folder').min(1, { error: 'the path of a folder' }),
    load_inplace: boolean().nullish(),
  },
  { error: 'an object' },
);
const UNLOAD = z.strictObject({ lora_name, lora_int_id: z.null().optional() }, { error: 'an object' });

async function complete(c: Context, engine: ChatEngine, { beat, onError }: AppOptions): Promise<Response> {
  const arrived = performance.now();
  const request = checkChatRequest(await jsonBody(c.req.raw));
  const { signal } = c.req.raw;
  const answering = await engine.ask(request, { arrived, signal });
  const source: Source = {
    events: answering.events,
    get usage() {
      return answering.usage;
    },
    position: () => engine.position(answering),
    abandon: () => engine.cancel(answering),
  };
  const head = headOf(request, answering);
  const how = { every: beat, onError };
  if (request.stream) return eventStream(source, head, request.usage, how);
  return await wholeAnswer(source, head, how);
}

function headOf(request: ChatRequest, { job }: Answering): AnswerHead {
  return {
    id: `chatcmpl-${randomUUID().replaceAll('-', '')}`,
    created: Math.floor(Date.now() / 1000),
    model: request.model ?? job.served.id,
    fingerprint: job.served.fingerprint,
    n: job.n,
    logProbs: job.logProbs !== null,
  };
}
