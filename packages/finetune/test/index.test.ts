/** The program API: a program trains, watches, stops and resumes; checks data, answers and merges. */
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  checkData,
  generate,
  loadModel,
  merge,
  Progress,
  type RunEvent,
  resolveConfig,
  train,
  UserError,
} from '../src/index.js';
import { weightsHash } from './support/cli-run.js';
import { eventsOf, makePlace, type Place } from './support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

const inPlace = (name: string): string => join(place.folder, name);

function configOf(name: string, values: Readonly<Record<string, unknown>> = {}) {
  return resolveConfig({
    model_name_or_path: place.model,
    data_path: [place.data],
    output_dir: inPlace(name),
    model_max_length: 256,
    per_device_train_batch_size: 2,
    max_steps: 4,
    learning_rate: 1e-3,
    logging_steps: 1,
    save_strategy: 'no',
    use_lora: true,
    lora_r: 4,
    dataloader_num_workers: 0,
    threads: 1,
    ...values,
  }).config;
}

describe('train', () => {
  const events: RunEvent[] = [];
  let listeners: number | undefined;
  const before = ['SIGINT', 'SIGTERM', 'SIGUSR1'].map((signal) => process.listenerCount(signal));
  const out = vi.spyOn(process.stdout, 'write');
  const error = vi.spyOn(process.stderr, 'write');

  it('gives every event to the program, prints nothing and leaves signals alone', async () => {
    const [printed, complained] = [out.mock.calls.length, error.mock.calls.length];
    const result = await train(configOf('whole'), {
      onEvent: (event) => {
        events.push(event);
        listeners = process.listenerCount('SIGINT');
      },
    });
    expect([out.mock.calls.length, error.mock.calls.length]).toEqual([printed, complained]);
    expect(result).toMatchObject({ stopped: null, steps: 4 });
    expect(listeners).toBe(before[0]);
    expect(['SIGINT', 'SIGTERM', 'SIGUSR1'].map((signal) => process.listenerCount(signal))).toEqual(before);
    const kinds = events.map(({ event }) => event).filter((kind) => kind !== 'system'); // on a slow machine
    const steps = ['step', 'step', 'memory_plan', 'step', 'step'];
    expect(kinds).toEqual(['run_start', 'phase', ...steps, 'phase', 'run_end']);
    const written = eventsOf(inPlace('whole'), 'step').map(({ time: _, ...event }) => event);
    expect(events.filter(({ event }) => event === 'step')).toEqual(written);
    expect(result.trainLoss).toBeCloseTo(written.reduce((sum, { loss }) => sum + loss!, 0) / 4, 10);
  });

  it('finishes the step, saves and returns when the signal is aborted; the run can be resumed', async () => {
    const stop = new AbortController();
    const result = await train(configOf('pieces'), {
      signal: stop.signal,
      onEvent: ({ event, ...rest }) => {
        if (event === 'step' && 'step' in rest && rest.step === 2) stop.abort();
      },
    });
    expect(result).toMatchObject({ stopped: 'abort', steps: 2 });
    expect(eventsOf(inPlace('pieces'), 'stop')).toMatchObject([{ reason: 'abort', step: 2 }]);
    expect(existsSync(join(inPlace('pieces'), 'checkpoint-2', 'manifest.json'))).toBe(true);
    const resumed = await train(configOf('pieces', { resume_from_checkpoint: 'latest' }));
    expect(resumed).toMatchObject({ stopped: null, steps: 4 });
    expect(weightsHash(inPlace('pieces'))).toBe(weightsHash(inPlace('whole')));
  });

  it('takes no step when the signal was aborted before', async () => {
    const result = await train(configOf('never'), { signal: AbortSignal.abort() });
    expect(result).toEqual({ stopped: 'abort', steps: 0, trainLoss: null, vision: null });
    expect(eventsOf(inPlace('never'), 'step')).toEqual([]);
  });

  it('saves a checkpoint when the program asks for one', async () => {
    let asked = 0;
    await train(configOf('asked'), { saveRequested: () => ++asked === 2 });
    expect(eventsOf(inPlace('asked'), 'checkpoint')).toMatchObject([{ step: 2, reason: 'signal' }]);
  });

  it('ends with what onEvent throws', async () => {
    const failing = train(configOf('thrown'), {
      onEvent: ({ event }) => {
        if (event === 'step') throw new Error('enough');
      },
    });
    await expect(failing).rejects.toThrow('enough');
  });

  it('shows what the commands show with a Progress', async () => {
    let text = '';
    const stream = {
      write: (piece: string) => {
        text += piece;
      },
    };
    await train(configOf('shown', { max_steps: 1 }), { reporter: new Progress({ mode: 'plain', stream }) });
    expect(text).toContain('step 1/1');
    expect(text).toContain(`notice: The trained adapter is in ${inPlace('shown')}.`);
  });
});

describe('a mistake', () => {
  it('is a UserError: unknown names, wrong values, an output folder in use', async () => {
    expect(() => configOf('x', { learning_rte: 1 })).toThrow(UserError);
    expect(() => configOf('x', { learning_rate: 'fast' })).toThrow(UserError);
    await expect(train(configOf('whole'))).rejects.toThrow(UserError);
  });
});

describe('the other functions', () => {
  it('checkData reports on the data of a configuration', async () => {
    const report = await checkData(configOf('x'), { threads: 0 });
    expect(report).toMatchObject({ records: 8, errors: [], images: 8, model_max_length: 256 });
    await expect(checkData(configOf('x'), { paths: [inPlace('nothing.json')] })).rejects.toThrow(UserError);
  });

  it('generate answers a data file, merge makes a checkpoint, and both answer the same', async () => {
    const model = { model: place.model, adapters: [inPlace('whole')] };
    const options = { dataPaths: [place.data], maxNewTokens: 4, device: 'cpu', threads: 1 } as const;
    const summary = await generate({ ...model, ...options, output: inPlace('answers.jsonl') });
    expect(summary).toMatchObject({ records: 8, resumed: 0 });
    const merged = await merge({ ...model, output: inPlace('merged'), threads: 1 });
    expect(merged.changed).toBeGreaterThan(0);
    expect(merged.logitsError).toBeLessThan(1e-4);
    await generate({ ...options, model: inPlace('merged'), output: inPlace('merged.jsonl') });
    const answers = (file: string): string[] =>
      readFileSync(inPlace(file), 'utf8')
        .trim()
        .split('\n')
        .map((line) => (JSON.parse(line) as { answer: string }).answer);
    expect(answers('merged.jsonl')).toEqual(answers('answers.jsonl'));
    using loaded = await loadModel({ model: inPlace('merged'), device: 'cpu', threads: 1 });
    const [answer] = await loaded.generate([[{ role: 'user', content: 'What is this?' }]], { maxNewTokens: 4 });
    expect(answer!.tokens).toBeLessThanOrEqual(4);
  });

  it('loadModel says which folder or id it cannot find', async () => {
    await expect(loadModel({ model: inPlace('nothing') })).rejects.toThrow(/nothing/);
    await expect(loadModel({ model: place.data })).rejects.toThrow(UserError);
  });

  it('generate stops between batches when it is aborted, and resumes', async () => {
    const options = { model: place.model, dataPaths: [place.data], maxNewTokens: 2, batchSize: 3 } as const;
    const output = inPlace('aborted.jsonl');
    const stop = new AbortController();
    const task = (label: string) => ({
      update: () => (label === 'Answering' ? stop.abort() : undefined),
      finish: () => {},
      stop: () => {},
    });
    const reporter = { notice: () => {}, task };
    expect(await generate({ ...options, output }, { reporter, signal: stop.signal })).toMatchObject({ records: 3 });
    expect(await generate({ ...options, output })).toMatchObject({ records: 8, resumed: 3 });
  });
});
