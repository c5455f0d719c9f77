/** The list of runs and the numbers of one: from the folders alone, of any version, whoever started them. */
import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { runningProcess, takeLock, thisProcess } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Records } from '../src/server/runs/records.js';
import { RunIndex } from '../src/server/runs/run-index.js';
import { type SeriesOptions, seriesOf } from '../src/server/runs/series.js';
import { makeFolder } from './support/page-server.js';
import { liveRun, writeRecordedRuns } from './support/recorded-runs.mjs';

const place = makeFolder('runs');
const root = place.path;
let index: RunIndex;

beforeAll(async () => {
  await writeRecordedRuns(root);
  index = new RunIndex([root]);
  await index.refresh();
});
afterAll(() => {
  index.close();
  place.remove();
});

const named = (name: string) => index.list().runs.find((run) => run.name === name)!;
const known = (name: string) => index.get(named(name).id);
const ALL: SeriesOptions = {
  x: 'step',
  metrics: ['loss'],
  points: 20_000,
  from: Number.NEGATIVE_INFINITY,
  to: Number.POSITIVE_INFINITY,
  smoothing: 0,
  abandoned: false,
};
const series = (name: string, options: Partial<SeriesOptions> = {}) =>
  seriesOf(new Records().of(known(name)), { ...ALL, ...options });

describe('the list', () => {
  it('shows every run folder with what its events say', () => {
    const { runs, position, problems } = index.list();
    expect(runs.map(({ name }) => name)).toEqual(['digits', 'invoices', 'killed', 'nonfinite', 'preference']);
    expect(problems).toEqual([]);
    expect(position.split(',')).toHaveLength(5);
    expect(named('digits')).toMatchObject({
      state: 'finished',
      model: 'openbmb/MiniCPM-V-2_6',
      method: { kind: 'full', r: null, preference: null },
      step: 240,
      totalSteps: 240,
      warnings: 1,
      resumableStep: 240,
      peakMemory: 4_240_000_000,
      starts: 1,
      bestMetric: { name: 'exact_match', value: 1, step: 180 },
      changed: { run_name: 'digits', max_steps: 240, logging_steps: 5 },
    });
    expect(named('invoices')).toMatchObject({ state: 'finished', starts: 3, method: { kind: 'lora', r: 16 } });
    expect(named('nonfinite')).toMatchObject({ state: 'failed', error: expect.stringContaining('not finite') });
    expect(named('killed')).toMatchObject({ state: 'killed', method: { kind: 'qlora', r: 64 }, etaSeconds: null });
    expect(named('preference')).toMatchObject({ method: { kind: 'lora', r: 16, preference: 'dpo' } });
  });

  it('takes the best evaluation of what counts, not of a branch that was left', () => {
    const losses = new Records().of(known('invoices')).evals.map(({ event }) => event.loss as number);
    expect(named('invoices').bestEvalLoss!.value).toBe(Math.min(...losses));
  });
});

const line = (event: object): string => `${JSON.stringify(event)}\n`;

describe('a branch that was left', () => {
  const folder = join(root, 'left');
  const time = '2025-01-01T00:00:00.000Z';
  const measured = (step: number, loss: number): string =>
    line({ event: 'eval', time, step, epoch: 1, loss, metrics: { anls: 1 - loss } });

  it('does not count for the best evaluation, but what came before it does', async () => {
    mkdirSync(folder);
    const start = (resumed: number): string => line({ event: 'run_start', time, resumed_at_step: resumed });
    const text = start(0) + measured(10, 0.5) + measured(20, 0.1) + start(10) + measured(20, 0.6);
    writeFileSync(join(folder, 'events.jsonl'), text);
    await index.refresh();
    expect(named('left')).toMatchObject({
      bestEvalLoss: { step: 10, value: 0.5 },
      bestMetric: { name: 'anls', step: 10, value: 0.5 },
    });
    rmSync(folder, { recursive: true });
    await index.refresh();
  });
});

describe('the peak of memory', () => {
  it('is that of the device where its allocator counts, of any step; on a CPU that of the process', async () => {
    const folder = join(root, 'device');
    mkdirSync(folder);
    const step = (rss: number, device: number): string =>
      line({ event: 'step', time: '', loss: 1, memory: { rss, tensors: 3, device_peak: device }, eta_seconds: 9e12 });
    const text =
      step(50, 20) + step(90, 30) + step(60, 25) + line({ event: 'system', time: '', rss: 95, available: 1 });
    writeFileSync(join(folder, 'events.jsonl'), text);
    await index.refresh();
    expect(named('device').peakMemory).toBe(30);
    const onCpu = join(root, 'cpu');
    mkdirSync(onCpu);
    writeFileSync(join(onCpu, 'events.jsonl'), line({ event: 'run_start', time: '', device: 'cpu' }) + text);
    await index.refresh();
    expect(named('cpu').peakMemory).toBe(95);
    rmSync(onCpu, { recursive: true });
    rmSync(folder, { recursive: true });
    await index.refresh();
  });
});

describe('a run of an early version', () => {
  const folder = join(root, 'early');

  it('opens, with what it lacks unknown', async () => {
    mkdirSync(folder);
    writeFileSync(
      join(folder, 'events.jsonl'),
      line({ event: 'run_start', time: '2025-01-01T00:00:00.000Z', total_steps: 10 }) +
        line({ event: 'step', time: '2025-01-01T00:00:01.000Z', step: 1, loss: 2 }) +
        line({ event: 'from_the_future', time: '2025-01-01T00:00:02.000Z' }) +
        'damaged\n' +
        line({ event: 'run_end', time: '2025-01-01T00:00:03.000Z', status: 'finished', step: 10 }) +
        '{"event":"step","ti',
    );
    await index.refresh();
    expect(named('early')).toMatchObject({
      state: 'finished',
      model: null,
      method: null,
      totalSteps: 10,
      loss: 2,
      tokensPerSecond: null,
      peakMemory: null,
      durationSeconds: 3,
    });
    const record = new Records().of(known('early'));
    expect(record.damaged).toHaveLength(1);
    expect(series('early').columns.loss!.y).toEqual([2]);
    expect(series('early', { x: 'tokens' }).columns.loss!.x).toEqual([0]);
    expect(series('early', { x: 'epoch' }).columns.loss!.x).toEqual([]); // it does not say the epoch
  });

  it('takes an unfinished line when its end has come', async () => {
    appendFileSync(join(folder, 'events.jsonl'), 'me":"2025-01-01T00:00:04.000Z","step":2,"loss":1}\n');
    await index.refresh();
    expect(named('early').loss).toBe(1);
  });

  it('is read afresh when another file has its name', async () => {
    const aside = join(root, 'aside.txt');
    copyFileSync(join(root, 'killed', 'events.jsonl'), aside);
    const changes: string[] = [];
    const stop = index.subscribe(({ run, kind }) => changes.push(`${kind} ${run}`));
    renameSync(aside, join(folder, 'events.jsonl'));
    await index.refresh();
    stop();
    expect(changes).toContain(`reset ${named('early').id}`);
    expect(named('early')).toMatchObject({ state: 'killed', step: 130 });
  });

  it('is gone with its folder', async () => {
    rmSync(folder, { recursive: true });
    await index.refresh();
    expect(named('early')).toBeUndefined();
  });
});

describe('a damaged file', () => {
  const write = (name: string, events: readonly object[]): void => {
    mkdirSync(join(root, name));
    writeFileSync(join(root, name, 'events.jsonl'), events.map(line).join(''));
  };
  const START = { event: 'run_start', time: '2026-01-01T00:00:00.000Z', total_steps: 4 };

  it('has its fields of other kinds unknown, and what is no event then is named', async () => {
    write('damaged', [
      {
        ...START,
        config: null,
        derived: 'x',
        notices: null,
        versions: 5,
        resumed_at_step: null,
        pid: '1',
        command: {},
      },
      { event: 'step', step: 1e308, loss: 1 },
      { event: 'step', time: 5, step: 2, epoch: {}, loss: '1', memory: 5 },
      { event: 'eval', step: 2, loss: {}, metrics: null },
      { event: 'memory_plan', budget: 'x', by: null },
      { event: 'warning', kind: 'odd', message: null },
      { event: 'warning', message: 'no kind' },
      { event: 'checkpoint', step: '2' },
      { event: 'phase', name: {} },
      { event: 'run_end', status: 'exploded', step: 4 },
      { event: 'run_end', status: 'stopped', step: null, error: {} },
    ]);
    await index.refresh();
    expect(index.list().problems).toEqual([]);
    expect(named('damaged')).toMatchObject({
      state: 'stopped',
      model: null,
      step: 2,
      totalSteps: 4,
      loss: null,
      error: null,
    });
    const record = new Records().of(known('damaged'));
    expect(record.start).toMatchObject({ derived: [], notices: [], versions: {} });
    expect(record.memoryPlan).toMatchObject({ budget: null, by: {} });
    expect(record.warnings.map(({ kind, message }) => [kind, message])).toEqual([['odd', '']]);
    expect(record.damaged).toHaveLength(4); // the warning, the checkpoint, the phase, the first end
    expect(series('damaged').columns.loss!.y).toEqual([]);
    rmSync(join(root, 'damaged'), { recursive: true });
  });

  it('whose last step was cut has the step before', async () => {
    write('cut', [START, { event: 'step', step: 1, loss: 2 }, { event: 'step', step: 2, loss: 1 }]);
    appendFileSync(join(root, 'cut', 'events.jsonl'), '{"event":"step","step":3,"lo\n');
    await index.refresh();
    expect(named('cut')).toMatchObject({ step: 2, loss: 1 });
    expect(new Records().of(known('cut')).damaged).toHaveLength(1);
    rmSync(join(root, 'cut'), { recursive: true });
    await index.refresh();
  });
});

describe('the state', () => {
  it('is running while the process is there, and killed when another one has its id', async () => {
    const live = liveRun(join(root, 'live')).steps(10);
    await index.refresh();
    expect(named('live').state).toBe('running');
    live.start({ totalSteps: 20, process: { pid: process.pid, start: 'another' } });
    await index.refresh();
    expect(named('live').state).toBe('killed');
    live.end('stopped');
    await index.refresh();
    expect(named('live').state).toBe('stopped');
  });

  it('of another machine follows the growth of the file', async () => {
    liveRun(join(root, 'far'))
      .start({ totalSteps: 20, process: { pid: process.pid, start: '1', host: 'far-away' } })
      .steps(10);
    await index.refresh();
    expect(named('far').state).toBe('probably_running');
    const run = known('far');
    run.look(Date.now() + 59_000);
    expect(run.state).toBe('probably_running');
    run.look(Date.now() + 62_000);
    expect(run.state).toBe('killed');
  });

  it('of another machine does not depend on the clock of the disk', async () => {
    const far = { pid: process.pid, start: '1', host: 'far-away' };
    const file = (name: string): string => join(root, name, 'events.jsonl');
    for (const [name, hours] of [
      ['ahead', 5],
      ['behind', -5],
    ] as const) {
      liveRun(join(root, name)).start({ totalSteps: 20, process: far }).steps(10);
      const time = new Date(Date.now() + hours * 3_600_000);
      utimesSync(file(name), time, time);
    }
    await index.refresh();
    expect(named('ahead').state).toBe('probably_running');
    expect(named('behind').state).toBe('killed'); // for all that is known: it has not grown before our eyes
    const ahead = known('ahead');
    ahead.look(Date.now() + 62_000);
    expect(ahead.state).toBe('killed');
    appendFileSync(file('behind'), line({ event: 'step', step: 11, loss: 1 }));
    const time = new Date(Date.now() - 5 * 3_600_000);
    utimesSync(file('behind'), time, time);
    const behind = known('behind');
    behind.look(Date.now());
    expect(behind.state).toBe('probably_running');
  });

  it('of a start of the page is that of its process, also when the clock was set back in between', async () => {
    const folder = join(root, 'set-back');
    const own = thisProcess();
    const processStart = runningProcess(process.pid)?.start ?? null;
    liveRun(folder).start({ totalSteps: 20, process: { pid: process.pid, start: processStart, host: own.host } });
    const launch = {
      time: '2099-01-01T00:00:00.000Z',
      words: [],
      cwd: root,
      pid: process.pid,
      processStart,
      hostname: own.host,
    };
    writeFileSync(join(folder, 'ui_launch.json'), JSON.stringify(launch));
    await index.refresh();
    expect(named('set-back')).toMatchObject({ state: 'running', error: null });
  });

  it('of a run that does not say its process follows its lock', async () => {
    const folder = join(root, 'locked');
    mkdirSync(folder);
    writeFileSync(join(folder, 'events.jsonl'), '{"event":"run_start","time":"2025-01-01T00:00:00.000Z"}\n');
    const lock = takeLock(join(folder, 'run.lock'), { what: folder });
    await index.refresh();
    expect(named('locked').state).toBe('running');
    const holder = JSON.parse(readFileSync(lock.path, 'utf8'));
    writeFileSync(lock.path, JSON.stringify({ ...holder, pid: 999_999_999 }));
    await new Promise((resolve) => setTimeout(resolve, 10));
    await index.refresh();
    expect(named('locked').state).toBe('killed');
    expect(thisProcess().pid).toBe(process.pid);
  });
});

describe('what lies outside', () => {
  it('is not found through links', async () => {
    const outside = makeFolder('outside');
    try {
      liveRun(join(outside.path, 'secret')).end();
      symlinkSync(join(outside.path, 'secret'), join(root, 'link'));
      mkdirSync(join(root, 'half'));
      symlinkSync(join(outside.path, 'secret', 'events.jsonl'), join(root, 'half', 'events.jsonl'));
      await index.refresh();
      expect(named('link')).toBeUndefined();
      expect(named('half')).toBeUndefined();
    } finally {
      outside.remove();
    }
  });
});

describe('series', () => {
  it('has the points that count, and the others apart', () => {
    const { columns, abandoned, marks } = series('invoices', { abandoned: true });
    const { x, of } = columns.loss!;
    expect(of).toBe(40);
    expect(x).toEqual(Array.from({ length: 40 }, (_, i) => 5 * (i + 1)));
    expect(abandoned.map(({ start, columns: left }) => [start, left.loss!.x])).toEqual([[0, [65, 70, 75, 80, 85]]]);
    expect(marks.filter(({ kind }) => kind === 'resume').map(({ step: at }) => at)).toEqual([60, 120]);
    expect(marks.filter(({ kind }) => kind === 'checkpoint').map(({ step: at }) => at)).toEqual([60, 120, 200]);
  });

  it.each(['epoch', 'time', 'tokens'] as const)('never goes back over %s, also after a pause', (x) => {
    const { columns } = series('invoices', { x, metrics: ['loss', 'eval_loss'] });
    for (const column of Object.values(columns)) {
      expect([...column.x].sort((a, b) => a - b)).toEqual(column.x);
      expect(column.x.at(-1)).toBeGreaterThan(0);
    }
    if (x === 'time') expect(columns.loss!.x.at(-1)).toBeLessThan(200); // without the hours between
    if (x === 'tokens') expect(columns.loss!.x.at(-1)).toBeCloseTo(200 * 2048, 0);
  });

  it('keeps what is not finite as null, and marks it', () => {
    const { columns, marks } = series('nonfinite', { metrics: ['loss', 'loss_scale'] });
    expect(columns.loss!.y[6]).toBeNull();
    expect(columns.loss!.y.filter((value) => value === null)).toHaveLength(1);
    expect(columns.loss_scale!.of).toBe(10);
    expect(marks).toContainEqual({ kind: 'nonfinite', step: 35, x: 35 });
  });

  it('names metrics as the field does', () => {
    const record = new Records().of(known('preference'));
    expect([...record.tables.step.metrics.keys()]).toEqual(
      expect.arrayContaining(['loss', 'memory.rss', 'rewards/chosen', 'logps/rejected']),
    );
    expect([...record.tables.eval.metrics.keys()]).toEqual([
      'eval_loss',
      'eval_rewards/accuracies',
      'eval_rewards/margins',
    ]);
    expect([...record.tables.system.metrics.keys()]).toContain('system.cpu_percent');
  });

  it('smooths before it reduces, and cuts a range afterwards', () => {
    const whole = series('digits', { smoothing: 0.9 }).columns.loss!;
    const few = series('digits', { smoothing: 0.9, points: 8 }).columns.loss!;
    const part = series('digits', { smoothing: 0.9, from: 100, to: 150 }).columns.loss!;
    expect(few.x.length).toBeLessThanOrEqual(8);
    expect(part.x).toEqual([100, 105, 110, 115, 120, 125, 130, 135, 140, 145, 150]);
    for (const column of [few, part])
      for (const [i, step] of column.x.entries()) expect(column.smooth[i]).toBe(whole.smooth[whole.x.indexOf(step)]);
  });
});
