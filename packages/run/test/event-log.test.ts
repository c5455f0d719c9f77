import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { EVENT_KINDS, EventWriter, parseEvents, type RunEvent, readEvents, UserError } from '../src/index.js';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'events-'));
  path = join(folder, 'events.jsonl');
});
afterEach(() => rmSync(folder, { recursive: true }));

const stop: RunEvent = { event: 'stop', reason: 'sigint', step: 3 };
const warning: RunEvent = { event: 'warning', kind: 'bad_record', message: 'zwölf, 十二', record: 12 };

describe('EventWriter', () => {
  it('appends one line per event and stamps it', () => {
    using writer = new EventWriter(path);
    writer.write(stop, new Date('2025-01-02T03:04:05.678Z'));
    writer.write(warning);
    expect(readFileSync(path, 'utf8').split('\n')[0]).toBe(
      '{"event":"stop","time":"2025-01-02T03:04:05.678Z","reason":"sigint","step":3}',
    );
    const events = readEvents(path);
    expect(events.map(({ time: _, ...event }) => event)).toEqual([stop, warning]);
    expect(Date.parse(events[1]!.time)).toBeGreaterThan(Date.now() - 60_000);
  });

  it('writes numbers that are not finite as null', () => {
    using writer = new EventWriter(path);
    writer.write({ event: 'run_end', status: 'failed', step: 1, seconds: 2, train_loss: Number.NaN });
    expect(readEvents(path)[0]).toMatchObject({ train_loss: null });
  });

  it('continues a file, without the half line a killed process left', () => {
    new EventWriter(path).write(stop);
    appendFileSync(path, '{"event":"st');
    using writer = new EventWriter(path);
    writer.write(warning);
    expect(readEvents(path).map((event) => event.event)).toEqual(['stop', 'warning']);
  });

  it('removes a half line longer than one read block, and a file that is one half line', () => {
    writeFileSync(path, `{"event":"stop"}\n"${'x'.repeat(200_000)}`);
    new EventWriter(path).close();
    expect(readFileSync(path, 'utf8')).toBe('{"event":"stop"}\n');
    writeFileSync(path, 'x'.repeat(200_000));
    new EventWriter(path).close();
    expect(readFileSync(path, 'utf8')).toBe('');
  });

  it('refuses to write after close', () => {
    const writer = new EventWriter(path);
    writer.close();
    writer.close();
    expect(() => writer.write(stop)).toThrow(/after close/);
  });
});

describe('reading', () => {
  it('ignores an unfinished last line and empty lines', () => {
    writeFileSync(path, '{"event":"stop"}\n\n{"event":"step"}\n{"event":"ev');
    expect(readEvents(path).map((event) => event.event)).toEqual(['stop', 'step']);
  });

  it('lets a reader follow the file', () => {
    const text = '{"event":"stop"}\n{"event":"st';
    const first = parseEvents(text, path);
    expect(first).toEqual({ events: [{ event: 'stop' }], consumed: 17 });
    const rest = parseEvents(`${text}ep"}\n`.slice(first.consumed), path);
    expect(rest.events).toEqual([{ event: 'step' }]);
  });

  it.each(['{"event":', '[]', '7', 'null', '{"event":7}'])('names the line of what is no event: %s', (line) => {
    writeFileSync(path, `{"event":"stop"}\n${line}\n{"event":"stop"}\n`);
    const error = catchError(() => readEvents(path));
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).format()).toContain(`${path}:2`);
  });

  it('has a name for every kind', () => {
    expect(new Set(EVENT_KINDS).size).toBe(10);
  });
});

function catchError(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  throw new Error('nothing was thrown');
}
