/**
 * The stream of server-sent events. It sends what `events.jsonl` of all runs gets from a position on, and how the runs stand. A position is a byte of
 * each file, so a browser that comes back misses nothing and gets nothing twice. Each connection reads on in the files by itself; between two
 * looks it keeps nothing but its position.
 */
import type { StampedEvent } from '@minicpm-finetune/run';
import type { Hono } from 'hono';
import { type SSEStreamingApi, streamSSE } from 'hono/streaming';
import type { EventBatch, StreamMessages, StreamName } from '../../shared/api.js';
import { ApiError } from '../errors.js';
import type { KnownRun } from '../runs/known-run.js';
import { lineStart, readLines } from '../runs/lines.js';
import type { RunChange, RunIndex } from '../runs/run-index.js';
import { soundEvent } from '../runs/sound-event.js';
import type { Services } from '../services.js';

/** Milliseconds between two messages of one run: at most ten a second. */
const PAUSE = 100;
const PING = 15_000;
/** Milliseconds after which a browser tries again. */
const RETRY = 2000;
/** Bytes of a file that one message covers at most, but for a longer line. */
const BATCH = 256 << 10;
const MOST_STREAMS = 64;

/** Where a connection begins. */
interface Asked {
  /** Of the address; null: from now on. */
  readonly after: ReadonlyMap<string, number> | null;
  /** Of the browser that comes back: counts over `after`. */
  readonly last: ReadonlyMap<string, number>;
}

/** `run:byteOffset` with commas. @throws ApiError 400 */
function parsePosition(text: string): Map<string, number> {
  const position = new Map<string, number>();
  for (const part of text.split(',')) {
    if (part === '') continue;
    const match = /^([\w-]{12}):(\d{1,15})$/.exec(part);
    if (match === null)
      throw new ApiError(
        400,
        `Expected run:byte for a position of the stream but received ${JSON.stringify(part.slice(0, 40))}.`,
        {
          field: 'after',
        },
      );
    position.set(match[1]!, Number(match[2]));
  }
  return position;
}

export function mountStream(app: Hono, services: Services): void {
  let open = 0;
  app.get('/api/events', (c) => {
    const after = c.req.query('after');
    const asked = {
      after: after === undefined ? null : parsePosition(after),
      last: parsePosition(c.req.header('last-event-id') ?? ''),
    };
    if (open >= MOST_STREAMS)
      throw new ApiError(503, `Expected at most ${MOST_STREAMS} streams at once.`, { cure: 'Close some pages.' });
    open++;
    c.header('x-accel-buffering', 'no');
    const answer = streamSSE(c, (stream) => follow(stream, services, asked).finally(() => open--));
    answer.headers.set('cache-control', 'no-store');
    return answer;
  });
}

async function follow(stream: SSEStreamingApi, services: Services, asked: Asked): Promise<void> {
  const follower = new Follower(stream, services.runs, asked);
  const stop = (): void => follower.stop();
  stream.onAbort(stop);
  const forget = services.onClose(stop);
  try {
    await follower.run();
  } finally {
    forget();
  }
}

/** One connection. */
class Follower {
  readonly #stream: SSEStreamingApi;
  readonly #runs: RunIndex;
  readonly #asked: Asked;
  /** Run -> the byte up to which its file was sent. */
  readonly #positions = new Map<string, number>();
  /** Runs that moved since `after`: their positions are in the ids. */
  readonly #moved: Set<string>;
  readonly #waiting = new Map<string, RunChange['kind']>();
  #stopped = false;
  #wake = (): void => {};

  constructor(stream: SSEStreamingApi, runs: RunIndex, asked: Asked) {
    this.#stream = stream;
    this.#runs = runs;
    this.#asked = asked;
    this.#moved = new Set(asked.last.keys());
  }

  stop(): void {
    this.#stopped = true;
    this.#wake();
  }

  async run(): Promise<void> {
    const unsubscribe = this.#runs.subscribe(({ run, kind }) => {
      if (this.#waiting.get(run) !== 'reset' || kind === 'removed') this.#waiting.set(run, kind);
      this.#wake();
    });
    try {
      await this.#stream.write(`retry: ${RETRY}\n\n`);
      this.#begin();
      if (this.#asked.after === null) await this.#stream.write(`id: ${this.#id}\n\n`);
      while (!this.#stopped) {
        if (this.#waiting.size === 0 && !(await this.#change())) await this.#stream.write(': ping\n\n');
        await this.#flush();
        await this.#rest();
      }
    } finally {
      unsubscribe();
    }
  }

  /** Where each run's file is read on; what the browser may not know yet is sent. */
  #begin(): void {
    const { after, last } = this.#asked;
    const known = new Map([...(after ?? []), ...last]);
    for (const run of this.#runs.all) {
      const { offset } = run.digest;
      const given = known.get(run.id) ?? (after === null && last.size === 0 ? offset : 0);
      if (given > offset) this.#waiting.set(run.id, 'reset');
      this.#positions.set(run.id, Math.min(given, offset));
      const mayBeOld = last.size > 0 || run.isLive || run.state === 'queued' || given < offset || !known.has(run.id);
      if (mayBeOld && given <= offset && after !== null) this.#waiting.set(run.id, 'changed');
      known.delete(run.id);
    }
    for (const id of known.keys()) this.#waiting.set(id, 'removed');
  }

  get #id(): string {
    const all = this.#asked.after === null ? this.#positions.keys() : this.#moved;
    return [...all].map((run) => `${run}:${this.#positions.get(run) ?? 0}`).join(',');
  }

  async #flush(): Promise<void> {
    const changes = [...this.#waiting];
    this.#waiting.clear();
    for (const [id, kind] of changes) {
      if (this.#stopped) return;
      const run = this.#runs.find(id);
      if (run === undefined || kind === 'removed') await this.#forget(id);
      else if (kind === 'reset') await this.#reset(run);
      else await this.#advance(run);
    }
  }

  async #forget(run: string): Promise<void> {
    this.#positions.delete(run);
    this.#moved.delete(run);
    await this.#send('removed', { run });
  }

  async #reset(run: KnownRun): Promise<void> {
    this.#move(run.id, run.digest.offset);
    await this.#send('reset', { run: run.id });
    await this.#send('run', run.summary);
  }

  /** Sends one batch; what is left waits for the next round. */
  async #advance(run: KnownRun): Promise<void> {
    const { offset } = run.digest;
    const from = this.#positions.get(run.id) ?? 0;
    if (from < offset) {
      const batch = readBatch(run, from, offset);
      this.#move(run.id, batch.to);
      if (batch.events.length > 0) await this.#send('events', batch);
      if (batch.to < offset && !this.#waiting.has(run.id)) this.#waiting.set(run.id, 'changed');
      if (batch.to < offset) return;
    }
    await this.#send('run', run.summary);
  }

  #move(run: string, to: number): void {
    this.#positions.set(run, to);
    this.#moved.add(run);
  }

  async #send<N extends StreamName>(event: N, data: StreamMessages[N]): Promise<void> {
    await this.#stream.writeSSE({ event, data: JSON.stringify(data), id: this.#id });
  }

  /** Until something changes; false: nothing did for a while. */
  #change(): Promise<boolean> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), PING);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(true);
      };
      if (this.#stopped) this.#wake();
    });
  }

  #rest(): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, PAUSE);
      this.#wake = () => {
        if (!this.#stopped) return;
        clearTimeout(timer);
        resolve();
      };
      this.#wake();
    });
  }
}

/** The next lines of a run's file. A byte inside a line stands for the start of that line. */
function readBatch(run: KnownRun, byte: number, offset: number): EventBatch {
  const path = run.eventsFile;
  const from = lineStart(path, byte);
  const events: { offset: number; event: StampedEvent }[] = [];
  const onLine = (bytes: Buffer, start: number, end: number, at: number): void => {
    const event = soundEvent(bytes.toString('utf8', start, end));
    if (event !== null) events.push({ offset: at, event });
  };
  let to = readLines(path, from, Math.min(from + BATCH, offset), onLine);
  if (to === from) to = readLines(path, from, offset, onLine);
  return { run: run.id, from, to: to === from ? offset : to, events };
}
