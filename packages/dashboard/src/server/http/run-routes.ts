/** What is read of runs. */
import type { Context, Hono } from 'hono';
import { z } from 'zod';
import { ApiError, notFound } from '../errors.js';
import { readLog } from '../process/console-log.js';
import { answerIndex, imageFile, splitHandle, stepAnswers } from '../runs/answers.js';
import { checkpointsOf } from '../runs/checkpoints.js';
import { configOf, detailsOf, recipeOf } from '../runs/details.js';
import type { KnownRun } from '../runs/known-run.js';
import { seriesOf } from '../runs/series.js';
import { languageOf, sayFor } from '../say.js';
import type { Services } from '../services.js';
import { INTEGER, numberOf, queryOf } from '../tools/body.js';

const MOST_METRICS = 64;
const NUMBER = z.coerce.number();

const SERIES = z.object({
  x: z.enum(['step', 'epoch', 'time', 'tokens']).default('step'),
  metrics: z.string().max(4096).default('loss'),
  points: INTEGER.pipe(z.number().min(4).max(20_000)).default(2000),
  from: NUMBER.default(Number.NEGATIVE_INFINITY),
  to: NUMBER.default(Number.POSITIVE_INFINITY),
  smoothing: NUMBER.pipe(z.number().min(0).max(0.999)).default(0),
  abandoned: z.enum(['0', '1']).default('0'),
});
const LOG = z.object({ from: z.coerce.number().int().min(0).optional(), last: INTEGER.optional() });
const IMAGE = z.object({ w: INTEGER.pipe(z.number().min(1).max(4096)).optional() });

export function runOf(c: Context, { runs }: Services): KnownRun {
  return runs.get(c.req.param('id') ?? '');
}

export function mountRuns(app: Hono, services: Services): void {
  const { runs, records } = services;
  app.get('/api/runs', (c) => c.json(runs.list()));
  app.get('/api/runs/:id', async (c) => {
    const say = await sayFor(languageOf(c));
    const run = runOf(c, services);
    runs.touch(run);
    return c.json(detailsOf(run, records.of(run), say));
  });
  app.get('/api/runs/:id/series', (c) => {
    const query = queryOf(c, SERIES);
    const metrics = query.metrics.split(',').filter((name) => name !== '');
    if (metrics.length > MOST_METRICS)
      throw new ApiError(400, `Expected at most ${MOST_METRICS} metrics but received ${metrics.length}.`, {
        field: 'metrics',
      });
    const options = { ...query, metrics, abandoned: query.abandoned === '1' };
    return c.json(seriesOf(records.of(runOf(c, services)), options));
  });
  app.get('/api/runs/:id/checkpoints', async (c) => {
    const say = await sayFor(languageOf(c));
    const run = runOf(c, services);
    return c.json(checkpointsOf(run, records.of(run), say));
  });
  app.get('/api/runs/:id/recipe', (c) => c.json(recipeOf(records.of(runOf(c, services)))));
  app.get('/api/log/:id', (c) => {
    const log = readLog(runOf(c, services).folder, queryOf(c, LOG));
    if (log === null)
      throw new ApiError(404, 'Expected a console.log of the run but there is none.', {
        cure: 'Only runs that the page starts have one; the output of others is where they were started.',
      });
    return c.json(log);
  });
  mountAnswers(app, services);
}

function mountAnswers(app: Hono, services: Services): void {
  const { runs, records, pictures } = services;
  app.get('/api/runs/:id/answers', (c) => {
    const run = runOf(c, services);
    return c.json(answerIndex(run, records.of(run)));
  });
  app.get('/api/runs/:id/answers/:step', (c) => c.json(stepAnswers(runOf(c, services), numberOf(c, 'step'))));
  const fileOf = (c: Context): { run: KnownRun; path: string } => {
    const [id, image] = splitHandle(c.req.param('handle') ?? '');
    const run = runs.find(id);
    if (run === undefined) throw notFound('a picture');
    return { run, path: imageFile(run, image) };
  };
  app.get('/api/images/:handle', async (c) => {
    const width = queryOf(c, IMAGE).w ?? null;
    const { path } = fileOf(c);
    const headers = { 'cache-control': 'private, no-cache', etag: await pictures.etag(path, width) };
    if (c.req.header('if-none-match') === headers.etag) return c.body(null, 304, headers);
    const { webp } = await pictures.webp(path, width);
    return c.body(webp, 200, { ...headers, 'content-type': 'image/webp' });
  });
  app.get('/api/images/:handle/slices', async (c) => {
    const { run, path } = fileOf(c);
    const { width, height } = await pictures.size(path);
    const { max_slice_nums: most = null, scale_resolution: side = null } = configOf(records.of(run))?.model ?? {};
    const grid = services.sliceGrid(width, height, {
      maxSliceNums: most ?? 9,
      scaleResolution: side ?? 448,
      patchSize: 14,
    });
    return c.json({ width, height, grid: grid === null ? null : { columns: grid[0], rows: grid[1] } });
  });
}
