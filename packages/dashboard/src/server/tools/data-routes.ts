/** The routes of the screen Data. */
import type { Say, UserErrorData } from '@minicpm-finetune/run';
import type { Context, Hono } from 'hono';
import { z } from 'zod';
import type { DataReport, EncodingView, RecordPage, RecordPreview, RecordView } from '../../shared/api.js';
import { ApiError } from '../errors.js';
import { errorOfText, fieldError, languageOf, placeText, sayFor } from '../say.js';
import { bodyOf, INTEGER, numberOf, queryOf } from './body.js';
import { ChildRefusal, type CommandOptions } from './child.js';
import { type DataSet, DataSets, type PreviewJson } from './data-set.js';

const MOST_FILES = 64;
const PATH = z
  .string()
  .min(1)
  .max(4096)
  .regex(/^[^\0]*$/, 'a path without the character NUL');
const OVERLONG = z.enum(['fewer_slices', 'truncate_text', 'drop', 'error']);

const OPEN = z.strictObject({
  files: z.array(PATH).min(1).max(MOST_FILES),
  model: PATH,
  settings: z
    .strictObject({
      model_max_length: z.number().int().min(1).max(1e9),
      overlong: OVERLONG,
      max_slice_nums: z.number().int().min(1).max(1000),
      scale_resolution: z.number().int().min(1).max(100_000),
      thinking: z.enum(['inference', 'every_turn', 'as_written']),
      video_fps: z.number().positive().max(1000),
      video_max_frames: z.number().int().min(1).max(100_000),
      video_max_packing: z.number().int().min(1).max(6),
      video_max_slice_nums: z.number().int().min(1).max(1000),
      allow_special_text: z.boolean(),
    })
    .partial()
    .optional(),
});
const RECORDS = z.object({
  from: INTEGER.default(0),
  count: INTEGER.pipe(z.number().max(200)).default(50),
  filter: z.enum(['all', 'error', 'warning', 'long', 'text_only']).default('all'),
  model_max_length: INTEGER.optional(),
});
const RECORD = z.object({ model_max_length: INTEGER.optional(), overlong: OVERLONG.optional() });
const PICTURE = RECORD.extend({ compat: z.enum(['inference', 'official']).default('inference') });
const IMAGE = z.object({ w: INTEGER.pipe(z.number().min(1).max(4096)).default(1024) });

export function mountData(app: Hono, options: CommandOptions): DataSets {
  const sets = new DataSets(options);
  const setOf = (c: Context): DataSet => sets.get(c.req.param('data') ?? '');

  app.get('/api/data', async (c) => c.json({ opened: await sets.list() }));
  app.post('/api/data/open', async (c) => {
    const request = await bodyOf(c, OPEN);
    const say = await sayFor(languageOf(c));
    return c.json(await inWords(say, () => sets.open(request)));
  });
  app.post('/api/data/:data/close', (c) => {
    setOf(c);
    sets.close(c.req.param('data'));
    return c.json({});
  });
  app.get('/api/data/:data/report', async (c) => {
    return c.json(reportOf(setOf(c), await sayFor(languageOf(c))));
  });
  app.get('/api/data/:data/records', async (c) => {
    const query = queryOf(c, RECORDS);
    const say = await sayFor(languageOf(c));
    return c.json(await inWords(say, () => page(sets, setOf(c), query, say)));
  });
  app.get('/api/data/:data/records/:n', async (c) => {
    const limits = queryOf(c, RECORD);
    const say = await sayFor(languageOf(c));
    const record = numberOf(c, 'n');
    return c.json(await inWords(say, () => view(setOf(c), record, limits, say)));
  });
  app.get('/api/data/:data/records/:n/images/:image', async (c) => {
    const request = { op: 'image', record: numberOf(c, 'n'), image: numberOf(c, 'image'), width: queryOf(c, IMAGE).w };
    return await picture(setOf(c), request);
  });
  app.get('/api/data/:data/records/:n/videos/:video', async (c) => {
    const request = { op: 'video', record: numberOf(c, 'n'), video: numberOf(c, 'video'), width: queryOf(c, IMAGE).w };
    return await picture(setOf(c), request);
  });
  app.get('/api/data/:data/records/:n/pictures/:picture', async (c) => {
    const query = queryOf(c, PICTURE);
    const request = { op: 'picture', record: numberOf(c, 'n'), picture: numberOf(c, 'picture'), ...query };
    return await picture(setOf(c), request);
  });
  return sets;
}

/** A refusal of the child as an answer in the language of the page. */
async function inWords<T>(say: Say, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ChildRefusal) {
      const field = fieldError(error.data, say);
      throw new ApiError(422, field.message, field);
    }
    if (!(error instanceof ApiError)) throw error;
    const cure = error.cure === null ? null : say(error.cure);
    throw new ApiError(error.status, say(error.message), { field: error.field, cure });
  }
}

function reportOf({ check }: DataSet, say: Say): DataReport {
  if (check.state === 'running') return { state: 'running', said: say(check.command.said), report: null };
  if (check.state === 'failed') {
    const { message, cure } = errorOfText(check.stderr, say);
    return { state: 'failed', said: cure === null ? message : `${message} ${cure}`, report: null };
  }
  return { state: 'done', said: '', report: check.records.report(say) };
}

async function page(
  sets: DataSets,
  set: DataSet,
  { from, count, filter, model_max_length: limit }: z.infer<typeof RECORDS>,
  say: Say,
): Promise<RecordPage> {
  const checked = set.check.state === 'done' ? set.check.records : null;
  const { records: total } = await set.describe();
  const passing = filter === 'all' ? null : sets.checked(set).passing(filter, limit);
  const numbers =
    passing === null
      ? Array.from({ length: Math.max(0, Math.min(count, total - from)) }, (_, i) => from + i)
      : passing.slice(from, from + count);
  const { previews } = await set.ask<{ previews: readonly PreviewJson[] }>({ op: 'list', records: numbers });
  const records = previews.map(({ error, ...one }): RecordPreview => {
    const findings = checked?.findingsOf(one.record, say) ?? [];
    const countOf = (level: string): number => findings.filter((found) => found.level === level).length;
    return {
      record: one.record,
      question: one.question,
      answer: one.answer,
      images: one.images,
      videos: one.videos,
      tokens: checked?.tokensOf(one.record) ?? null,
      errors: countOf('error'),
      warnings: countOf('warning'),
      error: error === undefined ? null : say(error.message),
    };
  });
  return { total: passing?.length ?? total, from, records };
}

/** As `render --json` prints it. */
interface RecordJson extends Omit<RecordView, 'place' | 'encodings' | 'findings'> {
  readonly place: Omit<UserErrorData, 'message'>;
  readonly encodings: readonly (Omit<EncodingView, 'error'> & { readonly error: UserErrorData | null })[];
}

async function view(set: DataSet, record: number, limits: object, say: Say): Promise<RecordView> {
  const json = await set.ask<RecordJson>({ op: 'record', record, compat: 'both', ...limits });
  return {
    ...json,
    place: say(placeText(json.place)),
    encodings: json.encodings.map((one) => ({
      ...one,
      error: one.error === null ? null : fieldError(one.error, say),
      notices: one.notices.map((notice) => say(notice)),
    })),
    findings: set.check.state === 'done' ? set.check.records.findingsOf(record, say) : [],
  };
}

/** A picture that the child made anew: WebP, whatever the file is. */
async function picture(set: DataSet, request: object): Promise<Response> {
  const { type, base64 } = await inWords(
    (text) => text,
    () => set.ask<{ type: string; base64: string }>(request),
  );
  return new Response(Buffer.from(base64, 'base64'), {
    headers: { 'content-type': type, 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' },
  });
}
