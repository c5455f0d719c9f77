/** The routes of the screens Data, New run, Chat and Machine. */
import type { Hono } from 'hono';
import { z } from 'zod';
import { ApiError } from '../errors.js';
import { languageOf, sayFor } from '../say.js';
import type { Services } from '../services.js';
import { bodyOf } from './body.js';
import { ChatModels } from './chat-models.js';
import { mountChat } from './chat-routes.js';
import type { RunPlace } from './chat-source.js';
import { mountData } from './data-routes.js';
import { Doctor } from './doctor.js';
import { mountJobs } from './job-routes.js';
import { Jobs } from './jobs.js';
import { MachineWatch, type Shown } from './machine.js';
import { checkValues, coerced, dryRun, estimateFit, FLAGS_TABLE, readRecipe } from './new-run.js';

const VALUES = z.strictObject({ values: z.record(z.string().min(1).max(100), z.unknown()) });
const START = VALUES.extend({ queue: z.boolean().optional() });
const ESTIMATE = VALUES.extend({ room: z.number().int().min(1).optional() });
const RECIPE = z.strictObject({ text: z.string().max(1_000_000) });
const NOTHING = z.strictObject({});

export function mountTools(app: Hono, services: Services): void {
  const { commandLine, cwd, runs } = services;
  const options = { commandLine, cwd };
  const sets = mountData(app, options);
  mountNewRun(app, services);

  const models = new ChatModels(options, () => runs.roots);
  const runOf = (id: string): RunPlace => {
    const { name, folder, digest } = runs.get(id);
    return { name, folder, cwd: digest.starts.at(-1)?.cwd ?? null };
  };
  mountChat(app, models, { runOf, cwd });
  const jobs = new Jobs(options, () => runs.roots);
  mountJobs(app, jobs, runOf);
  const doctor = mountMachine(app, services, models);
  services.onClose(() => {
    sets.closeAll();
    models.closeAll();
    jobs.close();
    doctor.close();
  });
}

function mountNewRun(app: Hono, { commandLine, cwd, launcher }: Services): void {
  const options = { commandLine, cwd };
  app.get('/api/flags', (c) => c.json(FLAGS_TABLE));
  app.post('/api/command', async (c) => {
    const { values } = await bodyOf(c, VALUES);
    return c.json(checkValues(values, await sayFor(languageOf(c))));
  });
  app.post('/api/dry-run', async (c) => {
    const { values } = await bodyOf(c, VALUES);
    return c.json(await dryRun(values, options, await sayFor(languageOf(c))));
  });
  app.post('/api/estimate', async (c) => {
    const { values, room = process.availableMemory() } = await bodyOf(c, ESTIMATE);
    return c.json(await estimateFit(values, room, options, await sayFor(languageOf(c))));
  });
  app.post('/api/recipe', async (c) => {
    const { text } = await bodyOf(c, RECIPE);
    return c.json(await readRecipe(text, options, await sayFor(languageOf(c))));
  });
  app.post('/api/runs', async (c) => {
    const { values: given, queue = false } = await bodyOf(c, START);
    const say = await sayFor(languageOf(c));
    const { values, mistakes } = coerced(given, say);
    const [first] = mistakes;
    if (first !== undefined) throw new ApiError(400, first.message, first);
    return c.json(await launcher.start(values, queue));
  });
}

function mountMachine(app: Hono, { commandLine, cwd, runs }: Services, models: ChatModels): Doctor {
  const watch = new MachineWatch();
  const doctor = new Doctor({ commandLine, cwd }, runs.roots[0] ?? cwd);
  const shown = (): Shown[] => [
    ...runs.all.flatMap((run): Shown[] => {
      const pid = run.isLive ? (run.lock?.pid ?? run.digest.starts.at(-1)?.pid ?? null) : null;
      return pid === null ? [] : [{ pid, kind: 'run', id: run.id, name: run.name }];
    }),
    ...models.list().flatMap(({ id, label, server }): Shown[] => {
      return server.pid === null ? [] : [{ pid: server.pid, kind: 'chat', id, name: label }];
    }),
    { pid: process.pid, kind: 'page', id: null, name: 'minicpm-finetune ui' },
  ];
  app.get('/api/machine', async (c) => {
    const say = await sayFor(languageOf(c));
    return c.json({ ...(await watch.look([...runs.roots, cwd], shown())), doctor: doctor.report(say) });
  });
  app.post('/api/machine/doctor', async (c) => {
    await bodyOf(c, NOTHING);
    doctor.start();
    return c.json(doctor.report(await sayFor(languageOf(c))));
  });
  return doctor;
}
