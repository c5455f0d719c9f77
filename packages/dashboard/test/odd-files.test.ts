/** Files as they may be: what is read in place, or not at all, is what a plain parse of every line gives. */
import { mkdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { Digest } from '../src/server/runs/digest.js';
import { GAP } from '../src/server/runs/line-shape.js';
import { RunRecord } from '../src/server/runs/run-record.js';
import { makeFolder } from './support/page-server.js';

const place = makeFolder('odd-files');
afterAll(() => place.remove());

type Json = Record<string, unknown>;

/** Numbers from 0 to below 1, the same ones for a seed. */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

function written(name: string, text: string): { path: string; size: number } {
  mkdirSync(place.path, { recursive: true });
  const path = join(place.path, `${name}.jsonl`);
  writeFileSync(path, text);
  return { path, size: statSync(path).size };
}

/** Events of two starts, of every kind, some with fields that no version writes. */
function eventsOf(random: () => number): Json[] {
  const events: Json[] = [];
  let at = Date.parse('2026-11-28T07:59:58.900Z');
  const add = (event: string, fields: Json): void => {
    at += Math.floor(random() * 3000);
    events.push({ event, time: new Date(at).toISOString(), ...fields });
  };
  const number = (): number | null => {
    const digits = Math.floor(random() * 24 - 8);
    return random() < 0.05
      ? null
      : (random() < 0.3 ? Math.floor(random() * 1e6) : random() * 10 ** digits) * (random() < 0.2 ? -1 : 1);
  };
  const step = (of: number): void => {
    const rss = Math.floor(random() * 1e10);
    const memory = [
      { rss, tensors: 369 },
      { rss, tensors: 369, device_peak: Math.floor(random() * 1e10) },
      { tensors: 1, rss },
      { rss: rss + 0.5 },
      { rss, parts: { rss: 9e10, device_peak: 9e10 }, device_peak: 7 },
    ][Math.min(4, Math.floor(random() * 12))];
    add('step', {
      step: of,
      epoch: of / 10,
      loss: number(),
      grad_norm: number(),
      ...(random() < 0.2 ? { text: 'a "quote", \\ and \u0007 {"rss":99999999999} 图片' } : {}),
      ...(random() < 0.1 ? { more: { rss: 9e10, list: [1, null, 'x', true] } } : {}),
      step_seconds: random(),
      ...(random() < 0.9 ? { memory } : {}),
      eta_seconds: number() ?? 0,
    });
  };
  for (const resumed of [0, 20]) {
    add('run_start', { total_steps: 40, resumed_at_step: resumed, config: { output: { run_name: 'odd' } } });
    for (let of = resumed + 1; of <= resumed + 30; of++) {
      step(of);
      if (random() < 0.3)
        add('system', {
          cpu_percent: 99.5,
          ...(random() < 0.2 ? { gpu: [{ util: 1 }] } : {}),
          rss: Math.floor(random() * 1e10),
          disk_free: 5,
        });
      if (random() < 0.1) add('eval', { step: of, epoch: of / 10, loss: number(), metrics: { anls: random() } });
      if (random() < 0.1)
        add('warning', { kind: 'bad_record', message: 'x'.repeat(Math.floor(random() * 5000)), step: of });
      if (random() < 0.05) add('from_the_future', { rss: 9e12, step: 1e9 });
      if (random() < 0.05) add('phase', { name: 'saving', step: of });
    }
  }
  if (random() < 0.5) add('run_end', { status: 'finished', step: 50, seconds: 9 });
  return events;
}

/** The same event with its keys the other way round. */
const turned = (event: Json): Json => Object.fromEntries(Object.entries(event).reverse());

/** A line of an event as the trainer, an editor or another program may have written it. */
function lineOf(event: Json, random: () => number): string {
  const way = random();
  if (way < 0.05) return JSON.stringify(turned(event));
  if (way < 0.08) return JSON.stringify(event).replaceAll('":', '": ');
  return JSON.stringify(event);
}

/** What is no event: cut, changed, empty or of another kind. */
function rubbish(event: Json, random: () => number): string {
  const line = JSON.stringify(event);
  return ['', 'damaged', '[1]', '{"a":1}', line.slice(0, Math.floor(random() * line.length)), line.replace(',"', ',')][
    Math.floor(random() * 6)
  ]!;
}

function fileOf(events: readonly Json[], random: () => number): string {
  const newline = random() < 0.3 ? '\r\n' : '\n';
  const lines = events.flatMap((event) => [
    lineOf(event, random),
    ...(random() < 0.05 ? [rubbish({ ...event, step: 7, memory: undefined, rss: undefined }, random)] : []),
  ]);
  const cut = JSON.stringify(events.at(-1)).slice(0, -1);
  return lines.map((line) => line + newline).join('') + (random() < 0.5 ? cut : '');
}

/** Everything that a digest tells. */
function told({ offset: _, ...digest }: Digest, peakMemory: number | null): unknown {
  return structuredClone({ ...digest, peakMemory });
}

/** Reads a file in pieces that end anywhere, as it grows. */
function inPieces(
  reader: { read(path: string, size: number): void },
  path: string,
  size: number,
  pieces: number,
): void {
  for (let i = 1; i <= pieces; i++) reader.read(path, Math.floor((size * i) / pieces));
}

describe.each(Array.from({ length: 40 }, (_, seed) => seed))('a file of the seed %d', (seed) => {
  const random = randomOf(seed);
  const events = eventsOf(random);
  const { path, size } = written(`file-${seed}`, fileOf(events, random));

  it('has the list told what its parsed lines tell', () => {
    const plain = new Digest();
    const other = written(`plain-${seed}`, events.map((event) => `${JSON.stringify(turned(event))}\n`).join(''));
    plain.read(other.path, other.size);
    for (const pieces of [1, 7]) {
      const digest = new Digest();
      inPieces(digest, path, size, pieces);
      expect(told(digest, digest.peakMemory)).toEqual(told(plain, plain.peakMemory));
    }
    const peaks = events.map(({ event, rss, memory }) =>
      event === 'system' ? rss : event === 'step' ? (memory as Json)?.rss : 0,
    );
    const devices = events.map(({ memory }) => (memory as Json)?.device_peak ?? 0);
    expect(plain.peakMemory).toBe(
      Math.max(...(devices as number[])) || Math.max(...peaks.map((rss) => (rss as number) ?? 0)),
    );
    expect(plain.lastStep!.step).toBe(50);
  });

  it('has the charts shown what its parsed lines tell', () => {
    const record = new RunRecord();
    inPieces(record, path, size, 5);
    for (const [kind, column, field] of [
      ['step', 'loss', 'loss'],
      ['step', 'grad_norm', 'grad_norm'],
      ['eval', 'eval_loss', 'loss'],
      ['system', 'system.rss', 'rss'],
    ] as const) {
      const rows = events.filter(({ event }) => event === kind);
      const table = record.tables[kind];
      expect(table.rows).toBe(rows.length);
      if (rows.length === 0) continue;
      expect([...table.metrics.get(column)!.first(table.rows)]).toEqual(rows.map((row) => row[field] ?? GAP));
    }
    const steps = events.filter(({ event }) => event === 'step').map(({ step }) => step);
    expect([...record.tables.step.place.step.first(record.tables.step.rows)]).toEqual(steps);
    expect(record.warnings).toHaveLength(events.filter(({ event }) => event === 'warning').length);
  });
});

it('reads a line that is longer than a piece, and what follows it', () => {
  const step = (of: number, more: Json = {}): string =>
    `${JSON.stringify({ event: 'step', time: '2026-11-28T08:00:00.000Z', step: of, loss: of, ...more, memory: { rss: of } })}\n`;
  const text = `${step(1)}${step(2, { note: 'x'.repeat(3 << 20) })}${step(3)}\n\r\n`;
  const { path, size } = written('long-line', text);
  const [digest, record] = [new Digest(), new RunRecord()];
  digest.read(path, size);
  record.read(path, size);
  expect([digest.offset, digest.lastStep!.step, digest.peakMemory]).toEqual([size, 3, 3]);
  expect([...record.tables.step.metrics.get('loss')!.first(3)]).toEqual([1, 2, 3]);
  expect(record.damaged).toEqual([]);
});

it('does not let a damaged last step hide the one before it', () => {
  const step = (of: number): string =>
    JSON.stringify({ event: 'step', time: `2026-11-28T08:00:0${of}.000Z`, step: of, memory: { rss: of }, loss: of });
  const start = JSON.stringify({ event: 'run_start', time: '2026-11-28T08:00:00.000Z', total_steps: 9 });
  const { path, size } = written(
    'damaged-last',
    `${start}\n${step(1)}\n${step(2)}\n${step(3).replace('"loss"', 'loss')}\n`,
  );
  const digest = new Digest();
  digest.read(path, size);
  expect([digest.lastStep!.step, digest.starts[0]!.lastTime]).toEqual([2, '2026-11-28T08:00:02.000Z']);
});
