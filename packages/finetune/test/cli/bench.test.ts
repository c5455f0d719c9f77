/** `minicpm-finetune bench`: the parts of a step add up, the figures are there, and nothing stays behind. */
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { describeFigures, measureTraining } from '../../src/cli/bench/measure.js';
import { type Measurement, PARTS } from '../../src/cli/bench/meter.js';
import { SILENT } from '../../src/report/reporter.js';
import { configOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
let temporary: string;
const { TMPDIR } = process.env;
beforeAll(() => {
  place = makePlace(8);
  temporary = join(place.folder, 'temporary');
  mkdirSync(temporary);
  process.env.TMPDIR = temporary;
});
afterAll(() => {
  if (TMPDIR === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = TMPDIR;
  rmSync(place.folder, { recursive: true });
});

/** A process alone waits for no other. */
const OF_ONE = PARTS.filter((part) => part !== 'collective');

describe('bench', () => {
  let figures: Measurement;
  let seconds: number;
  let before: string[];
  beforeAll(async () => {
    before = readdirSync(place.folder);
    const started = performance.now();
    figures = (await measureTraining(configOf(place, 'bench', { gradient_checkpointing: true }), 3))!;
    seconds = (performance.now() - started) / 1000;
  });

  it('splits a step into its parts', () => {
    expect(figures.steps).toBe(3);
    expect([...figures.seconds.keys()]).toEqual([...PARTS]);
    for (const part of OF_ONE) expect(figures.seconds.get(part), part).toBeGreaterThan(0);
    expect(figures.seconds.get('collective')).toBe(0);
    const step = [...figures.seconds.values()].reduce((sum, part) => sum + part, 0);
    expect(3 * step).toBeLessThan(seconds);
    expect(figures.tokensPerSecond).toBeGreaterThan(figures.samplesPerSecond);
  });

  it('compares the language model with plain matrix products', () => {
    expect(figures.languageFlops).toBeGreaterThan(0);
    expect(figures.languageFlops).toBeLessThan(figures.matmulFlops);
  });

  it('says what takes the memory', () => {
    const memory = (what: string): number => figures.memory.get(what)!;
    expect(memory('optimizer')).toBeGreaterThan(memory('weights')); // two moments in float32, a few rows of the embeddings
    expect(memory('the whole process')).toBeGreaterThan(memory('weights') + memory('optimizer'));
  });

  it('prints a table', () => {
    const lines = describeFigures(figures).split('\n');
    expect(lines[0]).toBe('A step, mean of 3:');
    for (const part of OF_ONE)
      expect(
        lines.some((line) => line.trim().startsWith(part)),
        part,
      ).toBe(true);
    expect(lines.some((line) => /GFLOP\/s = \d+ % of the \d+ GFLOP\/s/.test(line))).toBe(true);
  });

  it('has no figures when it is stopped before the first step that counts', async () => {
    const stop = new AbortController();
    const task = { update: () => stop.abort(), finish: () => {}, stop: () => {} };
    const reporter = {
      notice: () => {},
      task: (label: string) => (label === 'Measuring' ? task : SILENT.task('', 0, '')),
    };
    expect(await measureTraining(configOf(place, 'stopped'), 3, { reporter, signal: stop.signal })).toBeNull();
  });

  it('leaves nothing behind', () => {
    expect(readdirSync(temporary)).toEqual([]);
    expect(readdirSync(place.folder)).toEqual(before);
  });
});
