/** The routes of work on checkpoints. */
import type { Hono } from 'hono';
import { z } from 'zod';
import { languageOf, sayFor } from '../say.js';
import { bodyOf } from './body.js';
import { type RunPlace, weightsOfRun } from './chat-source.js';
import type { Jobs } from './jobs.js';

const PATH = z.string().min(1).max(4096);
const COMMON = { step: z.number().int().min(0).nullable(), output: PATH };
const JOB = z.discriminatedUnion('kind', [
  z.strictObject({ kind: z.literal('evaluate'), ...COMMON, data_path: z.array(PATH).max(100).optional() }),
  z.strictObject({ kind: z.literal('merge'), ...COMMON }),
  z.strictObject({ kind: z.literal('gguf'), ...COMMON, outtype: z.string().max(20).optional() }),
]);

export function mountJobs(app: Hono, jobs: Jobs, runOf: (id: string) => RunPlace): void {
  app.get('/api/runs/:id/jobs', async (c) => {
    const id = c.req.param('id');
    runOf(id);
    return c.json({ jobs: jobs.ofRun(id, await sayFor(languageOf(c))) });
  });
  app.post('/api/runs/:id/jobs', async (c) => {
    const request = await bodyOf(c, JOB);
    const id = c.req.param('id');
    const weights = weightsOfRun(runOf(id), request.step);
    return c.json(jobs.start(id, request, weights, await sayFor(languageOf(c))));
  });
  app.post('/api/jobs/:job/stop', async (c) => c.json(jobs.stop(c.req.param('job'), await sayFor(languageOf(c)))));
}
