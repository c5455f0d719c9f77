/** The stream of server-sent events: nothing is missed and nothing comes twice, wherever it is cut. */
import { appendFileSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { get } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EventBatch, RunSummary } from '../src/shared/api.js';
import { makeFolder, PageServer, until } from './support/page-server.js';
import { liveRun, writeRecordedRuns } from './support/recorded-runs.mjs';

const place = makeFolder('stream');
let page: PageServer;

beforeAll(async () => {
  await writeRecordedRuns(place.path);
  page = await PageServer.start([place.path]);
});
afterAll(async () => {
  await page.close();
  place.remove();
});

interface Message {
  readonly event: string;
  readonly id: string | undefined;
  // biome-ignore lint/suspicious/noExplicitAny: tests look at what they expect
  readonly data: any;
}

/** A browser's EventSource as far as the tests need it: messages, and the id of the last one. */
class Listener {
  readonly messages: Message[] = [];
  text = '';
  lastId = '';
  readonly #request;

  constructor(path: string, last?: string, of: PageServer = page) {
    const headers = { ...of.bearer, ...(last === undefined ? {} : { 'last-event-id': last }) };
    this.#request = get({ host: '127.0.0.1', port: of.dashboard.port, path, headers }, (answer) => {
      answer.setEncoding('utf8');
      answer.on('data', (part: string) => {
        this.text += part;
        this.#parse();
      });
      answer.on('error', () => {});
    });
    this.#request.on('error', () => {});
  }

  #done = 0;
  #parse(): void {
    for (let end = this.text.indexOf('\n\n', this.#done); end >= 0; end = this.text.indexOf('\n\n', this.#done)) {
      const lines = this.text.slice(this.#done, end).split('\n');
      this.#done = end + 2;
      const field = (name: string) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      const [id, data] = [field('id'), field('data')];
      if (id !== undefined) this.lastId = id;
      if (data !== undefined) this.messages.push({ event: field('event') ?? 'message', id, data: JSON.parse(data) });
    }
  }

  batches(run: string): EventBatch[] {
    return this.messages.filter(({ event, data }) => event === 'events' && data.run === run).map(({ data }) => data);
  }

  events(run: string): EventBatch['events'][number][] {
    return this.batches(run).flatMap(({ events }) => events);
  }

  close(): void {
    this.#request.destroy();
  }
}

const list = async () => (await page.get('/api/runs')).json as { position: string; runs: RunSummary[] };

/** Position of the whole list but for one run. */
const positionWith = (position: string, run: string, byte: number): string =>
  position.replace(new RegExp(`${run}:\\d+`), `${run}:${byte}`);

describe('GET /api/events', () => {
  it('begins with now when no position is given', async () => {
    const listener = new Listener('/api/events');
    await until(() => listener.lastId || undefined, 'a position');
    const { position } = await list();
    expect(listener.lastId.split(',').sort()).toEqual(position.split(',').sort());
    expect(listener.messages).toEqual([]);
    listener.close();
  });

  it('says when to try again, and sends what is new', async () => {
    const live = liveRun(join(place.path, 'live')).steps(5);
    await until(async () => (await list()).runs.find(({ name }) => name === 'live'), 'the run');
    const { position, runs } = await list();
    const { id, offset } = runs.find(({ name }) => name === 'live')!;
    const listener = new Listener(`/api/events?after=${position}`);
    try {
      await until(() => listener.text.includes('retry: 2000\n\n') || undefined, 'the head');
      live.steps(25);
      await until(() => (listener.events(id).length >= 4 ? true : undefined), 'four steps');
      const events = listener.events(id).filter(({ event }) => event.event === 'step');
      expect(events.map(({ event }) => (event as { step: number }).step)).toEqual([10, 15, 20, 25]);
      expect(listener.batches(id)[0]!.from).toBe(offset);
      await until(
        () => listener.messages.find(({ event, data }) => event === 'run' && data.step === 25),
        'the summary',
      );
      expect(listener.lastId).toBe(`${id}:${statSync(join(place.path, 'live', 'events.jsonl')).size}`);
      live.end();
      await until(
        () => listener.messages.find(({ event, data }) => event === 'run' && data.state === 'finished'),
        'its end',
      );
    } finally {
      listener.close();
    }
  });

  it('goes on exactly at any byte', async () => {
    const { position, runs } = await list();
    const { id } = runs.find(({ name }) => name === 'nonfinite')!;
    const path = join(place.path, 'nonfinite', 'events.jsonl');
    const text = readFileSync(path);
    const ends: number[] = [];
    for (let at = text.indexOf(10); at >= 0; at = text.indexOf(10, at + 1)) ends.push(at + 1);
    const bytes = [0, 1, ends[0]! - 1, ends[0]!, ends[0]! + 1, ends[3]! - 7, ends.at(-2)!, ends.at(-1)! - 1];
    for (const byte of bytes) {
      const listener = new Listener(`/api/events?after=${positionWith(position, id, byte)}`);
      const expected = ends.filter((end) => end > byte);
      await until(() => (listener.events(id).length >= expected.length ? true : undefined), `the events after ${byte}`);
      expect(listener.events(id).map(({ offset }) => offset)).toEqual(expected);
      listener.close();
    }
  });

  it('goes on after the last id, over a server that was started again', async () => {
    const live = liveRun(join(place.path, 'again'));
    await until(async () => (await list()).runs.find(({ name }) => name === 'again'), 'the run');
    const { position, runs } = await list();
    const { id } = runs.find(({ name }) => name === 'again')!;
    const path = `/api/events?after=${position}`;
    const steps: number[] = [];
    const take = (listener: Listener): void => {
      for (const { event } of listener.events(id)) if (event.event === 'step') steps.push(event.step);
      listener.close();
    };
    const first = new Listener(path);
    live.steps(20);
    await until(() => (first.events(id).length >= 4 ? true : undefined), 'the first steps');
    take(first);
    live.steps(40); // nobody listens
    const { token } = page.dashboard;
    await page.close();
    live.steps(60);
    page = await PageServer.start([place.path], { token });
    const second = new Listener(path, first.lastId);
    await until(() => (second.events(id).length >= 8 ? true : undefined), 'the later steps');
    live.steps(80);
    await until(() => (second.events(id).length >= 12 ? true : undefined), 'the last steps');
    take(second);
    expect(steps).toEqual(Array.from({ length: 16 }, (_, i) => 5 * (i + 1)));
    live.end();
  });

  it('waits for the end of a line', async () => {
    const { position, runs } = await list();
    const { id } = runs.find(({ name }) => name === 'killed')!;
    const path = join(place.path, 'killed', 'events.jsonl');
    const listener = new Listener(`/api/events?after=${position}`);
    appendFileSync(path, '{"event":"phase","time":"2026-11-20T09:00:00.000Z","na');
    appendFileSync(
      join(place.path, 'digits', 'events.jsonl'),
      '{"event":"phase","time":"2026-11-20T09:00:00.000Z","name":"saving","step":1}\n',
    );
    await until(() => listener.messages.find(({ event }) => event === 'events'), 'another run');
    expect(listener.events(id)).toEqual([]);
    appendFileSync(path, 'me":"saving","step":1}\n');
    await until(() => (listener.events(id).length === 1 ? true : undefined), 'the whole line');
    listener.close();
  });

  it('tells of runs that come and go, and of files that begin again', async () => {
    const { position } = await list();
    const listener = new Listener(`/api/events?after=${position}`);
    const folder = join(place.path, 'new');
    liveRun(folder).steps(10).end();
    const run = await until(
      () => listener.messages.find(({ event, data }) => event === 'run' && data.name === 'new'),
      'the run',
    );
    await until(() => (listener.events(run.data.id).length >= 5 ? true : undefined), 'all its events');
    expect(listener.events(run.data.id)[0]!.event.event).toBe('run_start');
    writeFileSync(join(folder, 'events.jsonl'), '');
    await until(
      () => listener.messages.find(({ event, data }) => event === 'reset' && data.run === run.data.id),
      'reset',
    );
    rmSync(folder, { recursive: true });
    await until(
      () => listener.messages.find(({ event, data }) => event === 'removed' && data.run === run.data.id),
      'removed',
    );
    listener.close();
  });

  it('sends at most ten batches a second of one run', async () => {
    const live = liveRun(join(place.path, 'fast'));
    await until(async () => (await list()).runs.find(({ name }) => name === 'fast'), 'the run');
    const { position, runs } = await list();
    const { id } = runs.find(({ name }) => name === 'fast')!;
    const listener = new Listener(`/api/events?after=${position}`);
    const began = Date.now();
    while (Date.now() - began < 1500) {
      live.steps(live.step + 50);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    const last = live.step;
    await until(
      () => listener.events(id).find(({ event }) => event.event === 'step' && event.step === last),
      'the last step',
    );
    const seconds = (Date.now() - began) / 1000;
    expect(listener.batches(id).length).toBeLessThanOrEqual(10 * seconds + 2);
    const steps = listener.events(id).filter(({ event }) => event.event === 'step');
    expect(steps).toHaveLength(last / 5);
    listener.close();
    live.end();
  });
});
