/** What is done to runs. Every answer tells how the run stands then. */
import type { Context, Hono } from 'hono';
import { z } from 'zod';
import type { ActionAnswer } from '../../shared/api.js';
import { ApiError } from '../errors.js';
import { end, resume, save, stop } from '../process/actions.js';
import { removeCheckpoint, removeRun } from '../process/removal.js';
import type { KnownRun } from '../runs/known-run.js';
import { NOTES_CHANGE, writeNotes } from '../runs/notes.js';
import { languageOf, sayFor } from '../say.js';
import type { Services } from '../services.js';
import { bodyOf, numberOf } from '../tools/body.js';
import { runOf } from './run-routes.js';

const NOTHING = z.strictObject({});
const NAMED = z.strictObject({ name: z.string() });
const RESUME = z.strictObject({ step: z.number().int().min(0).optional() });
const ARCHIVE = z.strictObject({ archived: z.boolean() });

/** Does something to a run and says it in a sentence. */
type Action<T> = (run: KnownRun, body: T, c: Context) => string | Promise<string>;

export function mountActions(app: Hono, services: Services): void {
  const { runs, launcher } = services;
  const handler =
    <T>(schema: z.ZodType<T>, action: Action<T>) =>
    async (c: Context): Promise<Response> => {
      const body = await bodyOf(c, schema);
      const run = runOf(c, services);
      runs.touch(run); // the state may be older than the process
      const say = await sayFor(languageOf(c));
      const done = say(await action(run, body, c));
      await runs.refresh();
      const found = runs.find(run.id);
      const answer: ActionAnswer = { run: found === undefined ? null : runs.touch(found), done };
      return c.json(answer);
    };
  const post = <T>(path: string, schema: z.ZodType<T>, action: Action<T>): void => {
    app.post(`/api/runs/:id/${path}`, handler(schema, action));
  };
  post('stop', NOTHING, (run) => stop(run, launcher));
  post('save', NOTHING, (run) => save(run));
  post('end', NAMED, (run, { name }) => {
    requireName(run, name);
    return end(run);
  });
  post('resume', RESUME, (run, { step }) => resume(run, step, launcher));
  post('archive', ARCHIVE, (run, { archived }) => {
    writeNotes(run.folder, { archived });
    return archived ? 'The run is in the archive.' : 'The run is not in the archive any more.';
  });
  post('delete', NAMED, (run, { name }) => {
    requireName(run, name);
    return removeRun(run);
  });
  post('checkpoints/:step/delete', NOTHING, (run, _, c) => removeCheckpoint(run, numberOf(c, 'step')));
  app.put(
    '/api/runs/:id/ui',
    handler(NOTES_CHANGE, (run, change) => {
      writeNotes(run.folder, change);
      return 'The notes are saved.';
    }),
  );
}

function requireName(run: KnownRun, name: string): void {
  if (name === run.name) return;
  throw new ApiError(400, `Expected the name of the run, ${run.name}, but received another text.`, { field: 'name' });
}
