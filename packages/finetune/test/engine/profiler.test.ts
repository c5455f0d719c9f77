/** --profile: a trace of the first steps, in Chrome's format, of everything a step consists of. */
import { existsSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ops, scope } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { Profiler, type TraceEvent } from '../../src/engine/profiler.js';
import { train } from '../../src/train/train.js';
import { configOf, eventsOf, lossesOf, makePlace, readJson } from '../support/run-place.js';

const place = makePlace(8);
afterAll(() => rmSync(place.folder, { recursive: true }));

async function run(name: string, flags: Readonly<Record<string, unknown>>): Promise<string> {
  const config = configOf(place, name, flags);
  await train(config);
  return config.output.output_dir;
}

const eventsIn = (folder: string): TraceEvent[] =>
  readJson<{ traceEvents: TraceEvent[] }>(folder, 'profile.json').traceEvents;

/** Whether `inner` lies in `outer`, but for rounding. */
const within = (inner: TraceEvent, outer: TraceEvent): boolean =>
  inner.ts >= outer.ts - 2 && inner.ts + inner.dur! <= outer.ts + outer.dur! + 4;

describe('--profile', () => {
  it('traces so many steps: blocks, loss, update, operators, data and memory', async () => {
    const folder = await run('profiled', { max_steps: 4, profile: 2, gradient_accumulation_steps: 2 });
    const events = eventsIn(folder);
    const spans = events.filter(({ ph }) => ph === 'X');
    const named = (name: string) => spans.filter((span) => span.name === name);
    const of = (cat: string) => spans.filter((span) => span.cat === cat);
    expect(of('step').map(({ name }) => name)).toEqual(['step 1', 'step 2']);
    const layer = named('llm.model.layers.0');
    expect(layer.map(({ cat }) => cat)).toEqual([
      'forward',
      'backward',
      'forward',
      'backward',
      'forward',
      'backward',
      'forward',
      'backward',
    ]);
    expect(named('loss')).toHaveLength(4);
    expect(named('update')).toHaveLength(2);
    expect(named('data wait')).toHaveLength(2);
    expect(named('collate')).toHaveLength(2);
    expect(named('minicpm::linear').length).toBeGreaterThan(20);
    for (const span of [...of('forward'), ...of('backward'), ...of('operator'), ...named('update')]) {
      expect(span.dur).toBeGreaterThanOrEqual(0);
      expect(of('step').some((step) => within(span, step))).toBe(true);
    }
    const memory = events.filter(({ ph, name }) => ph === 'C' && name === 'memory');
    expect(memory.length).toBeGreaterThan(20);
    for (const { args } of memory)
      expect(args).toMatchObject({ resident: expect.any(Number), tensors: expect.any(Number) });
  });

  it('shows recomputation and updates in the backward pass where they happen', async () => {
    const folder = await run('fused', { max_steps: 1, profile: 1, gradient_checkpointing: true, fused_backward: true });
    const spans = eventsIn(folder).filter(({ ph }) => ph === 'X');
    const of = (cat: string) => spans.filter((span) => span.cat === cat);
    expect(of('recompute').length).toBeGreaterThan(3);
    for (const again of of('recompute'))
      expect(of('backward').some((span) => span.name === again.name && within(again, span))).toBe(true);
    const updates = of('optimizer').filter(({ name }) => name === 'update');
    expect(updates.some((update) => of('backward').some((span) => within(update, span)))).toBe(true);
  });

  it('writes what there is when the run is shorter, and nothing without the flag', async () => {
    const folder = await run('short', { max_steps: 1, profile: 5 });
    expect(eventsIn(folder).filter(({ cat }) => cat === 'step')).toHaveLength(1);
    const plain = await run('plain', { max_steps: 1 });
    expect(existsSync(join(plain, 'profile.json'))).toBe(false);
    expect(lossesOf(folder)).toEqual(lossesOf(plain));
  });

  it('only warns when the file cannot be written', async () => {
    const config = configOf(place, 'unwritable', { max_steps: 2, profile: 1 });
    mkdirSync(join(config.output.output_dir, 'profile.json'), { recursive: true });
    await train(config);
    expect(eventsOf(config.output.output_dir, 'warning').map(({ kind }) => kind)).toEqual(['write_failed']);
  });

  it('leaves operators alone behind its last step', () => {
    const written: string[] = [];
    const write = (text: string): number => written.push(text);
    const profiler = new Profiler(2, join(place.folder, 'trace.json'), { write, failed: () => {} });
    profiler.step(1, () => scope(() => ops.zeros([2])));
    const count = profiler.events.length;
    scope(() => ops.zeros([2]));
    expect(profiler.events).toHaveLength(count);
    expect(profiler.events.map(({ name }) => name)).toContain('aten::zeros');
    expect(() =>
      profiler.step(2, () => {
        throw new Error('inside');
      }),
    ).toThrow('inside');
    expect(profiler.active).toBe(false);
    expect(written.map((text) => Object.keys(JSON.parse(text) as object))).toEqual([
      ['traceEvents', 'displayTimeUnit'],
    ]);
  });
});
