import type { RunEvent, StepEvent } from '@minicpm-finetune/run';
import { formatBytes, formatCount, formatDuration, formatNumber, formatRate } from '@minicpm-finetune/run';
import { beforeEach, describe, expect, it } from 'vitest';
import { Progress, type ProgressOptions } from '../../src/report/progress.js';

/** A terminal of which one can read what is on the screen: understands carriage return, erase line and newline. */
class FakeTerminal {
  isTTY = true;
  columns = 200;
  raw = '';
  lines = [''];
  #overwrite = false;
  write(text: string): void {
    this.raw += text;
    for (const token of text.replaceAll('\u001b[2K', '⌧').split(/([\r\n⌧])/)) {
      if (token === '') continue;
      if (token === '\n') this.lines.push('');
      else if (token === '⌧') this.lines[this.lines.length - 1] = '';
      else if (token !== '\r') this.lines[this.lines.length - 1] = (this.#overwrite ? '' : this.lines.at(-1)) + token;
      this.#overwrite = token === '\r';
    }
  }
}

class FakeFile {
  text = '';
  write(text: string): void {
    this.text += text;
  }
  get lines(): string[] {
    return this.text.split('\n').slice(0, -1);
  }
}

let clock = 0;
const now = () => clock;
beforeEach(() => {
  clock = 100;
});

const status: Omit<StepEvent, 'event'> = {
  step: 120,
  epoch: 0.851,
  loss: 1.23456,
  grad_norm: 0.871,
  learning_rate: 4.8e-5,
  step_seconds: 0.5,
  samples_per_s: 35.21,
  tokens_per_s: 5000,
  supervised_tokens_per_s: 1234,
  world_size: 1,
  data_wait_share: 0.031,
  memory: { rss: 1.23e9 },
  eta_seconds: 135,
};
const stepEvent: StepEvent = { event: 'step', ...status };
const length = { totalSteps: 423, epochs: 3 };
const stepText =
  'step 120/423  loss 1.2346  ETA 2:15  lr 4.80e-5  grad norm 0.8710  35.2 samples/s  1.2 k supervised tokens/s  wait 3 %  memory 1.2 GB  epoch 0.851/3';

const warning: RunEvent = { event: 'warning', kind: 'bad_record', message: 'record 7 left out' };
const checkpoint: RunEvent = {
  event: 'checkpoint',
  step: 100,
  path: 'checkpoint-100',
  bytes: 1.25e9,
  seconds: 3.44,
  reason: 'interval',
  removed: ['checkpoint-50'],
};

function onTerminal(options: ProgressOptions = {}) {
  const terminal = new FakeTerminal();
  const progress = new Progress({ stream: terminal, output: new FakeFile(), now, ...options });
  progress.training(length);
  return { terminal, progress };
}

function onFile(mode: ProgressOptions['mode'] = 'auto') {
  const [stream, output] = [new FakeFile(), new FakeFile()];
  const progress = new Progress({ mode, stream, output, now });
  progress.training(length);
  return { stream, output, progress };
}

describe('live line', () => {
  it('shows every number of a step and is repainted in place', () => {
    const { terminal, progress } = onTerminal();
    expect(progress.mode).toBe('live');
    progress.step(status);
    expect(terminal.lines).toEqual([`[====            ]  ${stepText}`]);
    clock += 1;
    progress.step({ ...status, step: 423, eta_seconds: 0 });
    expect(terminal.lines).toHaveLength(1);
    expect(terminal.lines[0]).toMatch(/^\[={16}\] {2}step 423\/423 .*ETA 0:00/);
  });

  it('is painted ten times a second at most', () => {
    const { terminal, progress } = onTerminal();
    for (let i = 0; i < 100; i++) {
      progress.step({ ...status, step: i });
      clock += 0.01;
    }
    expect(terminal.raw.split('\r').length - 1).toBeLessThanOrEqual(10);
  });

  it('drops the bar and then fields from the right instead of wrapping', () => {
    const { terminal, progress } = onTerminal();
    for (const [columns, text] of [
      [stepText.length + 1, stepText],
      [50, 'step 120/423  loss 1.2346  ETA 2:15  lr 4.80e-5'],
      [10, 'step 120/'],
    ] as const) {
      terminal.columns = columns;
      clock += 1;
      progress.step(status);
      expect(terminal.lines).toEqual([text]);
    }
  });

  it('keeps other lines above it', () => {
    const { terminal, progress } = onTerminal();
    progress.step(status);
    progress.event(stepEvent);
    progress.event(checkpoint);
    progress.notice('a notice');
    expect(terminal.lines).toEqual([
      'saved checkpoint-100 (1.3 GB in 3.4 s), removed checkpoint-50',
      'notice: a notice',
      `[====            ]  ${stepText}`,
    ]);
  });

  it('is removed at the end', () => {
    const { terminal, progress } = onTerminal();
    progress.step(status);
    progress.event({ event: 'run_end', status: 'finished', step: 423, seconds: 754, train_loss: 1.5, output: '.' });
    progress.close();
    expect(terminal.lines).toEqual(['finished after step 423, 12:34, mean loss 1.5000', '']);
  });
});

describe('plain lines', () => {
  it('has no control characters and one line per logged step', () => {
    const { stream, output, progress } = onFile();
    expect(progress.mode).toBe('plain');
    for (let i = 0; i < 20; i++) progress.step(status);
    progress.event(stepEvent);
    progress.event(warning);
    progress.close();
    expect(stream.lines).toEqual([stepText, 'warning: record 7 left out']);
    expect([...stream.text].filter((character) => character < ' ' && character !== '\n')).toEqual([]);
    expect(output.text).toBe('');
  });

  it('is what a terminal gets, too, if asked for', () => {
    const { terminal, progress } = onTerminal({ mode: 'plain' });
    progress.step(status);
    progress.event(stepEvent);
    expect(terminal.raw).toBe(`${stepText}\n`);
  });

  it('says so where a number was not finite, and shows loss scale and skipped steps', () => {
    const { stream, progress } = onFile();
    progress.event({ ...stepEvent, loss: null, grad_norm: Number.NaN, loss_scale: 65536, skipped_steps: 2 });
    expect(stream.text).toMatch(/loss not finite .*grad norm not finite .*loss scale 65536 {2}skipped 2\n$/);
  });

  it.each<[RunEvent, string]>([
    [
      {
        event: 'eval',
        step: 10,
        epoch: 1,
        loss: 0.5,
        metrics: { exact_match: 0.91 },
        samples: 500,
        seconds: 12,
        samples_per_s: 41,
      },
      'eval at step 10: loss 0.5000, exact_match 0.9100 (500 records in 0:12)\n',
    ],
    [{ event: 'stop', reason: 'sigint', step: 3 }, 'stopping after step 3: Ctrl-C\n'],
    [{ event: 'run_end', status: 'failed', step: 3, seconds: 4, error: 'disk full' }, 'failed after step 3, 0:04\n'],
  ])('%j', (event, text) => {
    const { stream, progress } = onFile();
    progress.event(event);
    expect(stream.text).toBe(text);
  });

  it('describes the start', () => {
    const { stream, progress } = onFile();
    progress.event({
      event: 'run_start',
      versions: {},
      config: {} as never,
      notices: [],
      derived: [],
      total_steps: 423,
      train_samples: 9000,
      eval_samples: 0,
      trainable_parameters: 2.1e6,
      total_parameters: 8.1e9,
      world_size: 1,
      device: 'cpu',
      resumed_at_step: 100,
    });
    expect(stream.lines).toEqual([
      '2.1 M of 8.1 B parameters train (0.0259 %), on cpu',
      '9000 records, 423 steps',
      'continuing after step 100',
    ]);
  });
});

describe('quiet and JSON', () => {
  it('quiet shows warnings and a failed end alone', () => {
    const { stream, output, progress } = onFile('quiet');
    progress.step(status);
    progress.event(stepEvent);
    progress.event(checkpoint);
    progress.notice('a notice');
    const task = progress.task('Reading', 10, 'records');
    task.update(5);
    task.finish(10);
    progress.event({ event: 'run_end', status: 'finished', step: 1, seconds: 1 });
    expect(stream.text).toBe('');
    progress.event(warning);
    progress.event({ event: 'run_end', status: 'failed', step: 1, seconds: 1, error: 'x' });
    expect(stream.lines).toEqual(['warning: record 7 left out', 'failed after step 1, 0:01']);
    expect(output.text).toBe('');
  });

  it('JSON writes every event as it is, to standard output', () => {
    const { stream, output, progress } = onFile('json');
    progress.step(status);
    progress.event(stepEvent);
    progress.event(checkpoint);
    progress.notice('a notice');
    const task = progress.task('Reading', 10, 'records');
    clock += 2;
    task.finish(10);
    expect(output.lines.map((line) => JSON.parse(line))).toEqual([
      stepEvent,
      checkpoint,
      { message: 'a notice' },
      { task: 'Reading', done: 10, total: 10, unit: 'records', seconds: 2, finished: true },
    ]);
    expect(stream.text).toBe('');
  });
});

describe('tasks', () => {
  it('have a bar, a rate and an estimate on a terminal', () => {
    const { terminal, progress } = onTerminal();
    const task = progress.task('Reading records', 9000, 'records');
    clock += 2;
    task.update(4500, 'train.json');
    expect(terminal.lines).toEqual([
      '[========        ]  Reading records  4500/9000 records  2.3 k/s  ETA 0:02  train.json',
    ]);
    clock += 2;
    task.finish(9000, '3 bad');
    expect(terminal.lines).toEqual(['Reading records: 9000 records in 4.0 s, 3 bad', '']);
  });

  it('show sizes, and go without a total', () => {
    const { terminal, progress } = onTerminal();
    const task = progress.task('Downloading', undefined, 'bytes');
    clock += 4;
    task.update(2e9);
    expect(terminal.lines).toEqual(['Downloading  2.0 GB  500 MB/s']);
  });

  it('write a plain line every ten seconds, and one at the end', () => {
    const { stream, progress } = onFile();
    const task = progress.task('Checking', 100, 'records');
    for (let done = 1; done <= 25; done++) {
      clock += 1;
      task.update(done);
    }
    task.finish(100);
    expect(stream.lines).toEqual([
      'Checking  10/100 records  1/s  ETA 1:30',
      'Checking  20/100 records  1/s  ETA 1:20',
      'Checking: 100 records in 0:25',
    ]);
  });

  it('come one at a time', () => {
    const { progress } = onFile();
    progress.task('a', 1, 'x').finish(1);
    progress.task('b', 1, 'x');
    expect(() => progress.task('c', 1, 'x')).toThrow(/"c" started before "b" was finished/);
    progress.close();
    progress.task('d', 1, 'x');
  });
});

describe('formats', () => {
  it('durations', () => {
    expect([0, 7, 754, 10_921, 183_845, -1, Number.NaN, Number.POSITIVE_INFINITY].map(formatDuration)).toEqual([
      '0:00',
      '0:07',
      '12:34',
      '3:02:01',
      '2d 03:04',
      '?',
      '?',
      '?',
    ]);
  });

  it('sizes and counts', () => {
    expect([0, 999, 1000, 15.9e9, 999_600].map(formatBytes)).toEqual(['0 B', '999 B', '1.0 kB', '16 GB', '1.0 MB']);
    expect([0, 0.4216, 7, 1234, 8.1e9, Number.NaN].map(formatCount)).toEqual([
      '0',
      '0.422',
      '7',
      '1.2 k',
      '8.1 B',
      '?',
    ]);
  });

  it('numbers and rates', () => {
    expect([0, 1.5, 15.123, 12_345.6, 1e7, 1e-5, null].map(formatNumber)).toEqual([
      '0.0000',
      '1.5000',
      '15.12',
      '12346',
      '1.00e+7',
      '1.00e-5',
      'not finite',
    ]);
    expect([0, 5e-5].map(formatRate)).toEqual(['0', '5.00e-5']);
  });
});
