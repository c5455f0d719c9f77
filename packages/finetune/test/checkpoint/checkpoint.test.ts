/** What checkpoints hold, which of them stay, and what happens when the disk is full. */
import { appendFileSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { OwnFiles, readEvents } from '@minicpm-finetune/run';
import { SafetensorsFile } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { removeOldCheckpoints, verifyCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { train } from '../../src/train/train.js';
import { CLI, checkpointsIn, type Running, start, startTraining, weightsHash, words } from '../support/cli-run.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { configOf, eventsOf, makePlace, type Place, readJson } from '../support/run-place.js';
import { fillDisk, mountSmall, unmount } from '../support/small-disk.js';

let place: Place;
beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

const folderOf = (name: string): string => join(place.folder, name);

describe('a checkpoint', () => {
  const folder = () => join(folderOf('content'), 'checkpoint-2');
  beforeAll(async () => {
    await train(configOf(place, 'content', { bf16: true, max_steps: 2, save_strategy: 'steps', save_steps: 2 }));
  });

  it('has weights, optimizer with float32 masters, random state, trainer state, configuration and a manifest', () => {
    verifyCheckpoint(folder());
    const model = new SafetensorsFile(join(folder(), 'model.safetensors'));
    const optimizer = new SafetensorsFile(join(folder(), 'optimizer.safetensors'));
    const name = 'llm.model.embed_tokens.weight';
    expect(model.infos.get(name)?.dtype).toBe('bfloat16');
    const { shape } = model.infos.get(name)!;
    expect(optimizer.infos.get(`master.${name}`)).toMatchObject({ dtype: 'float32', shape });
    const rows = optimizer.infos.get(`rows.${name}`)!; // moments are of the tokens that occurred
    expect(rows).toMatchObject({ dtype: 'int64', shape: [expect.any(Number)] });
    expect(rows.shape[0]).toBeLessThan(shape[0]!);
    for (const part of ['exp_avg', 'exp_avg_sq'])
      expect(optimizer.infos.get(`${part}.${name}`)).toMatchObject({
        dtype: 'float32',
        shape: [rows.shape[0], shape[1]],
      });
    const listed = readJson<{ files: { name: string; bytes: number }[] }>(folder(), 'manifest.json').files;
    expect(listed.map((file) => file.name)).toEqual(
      readdirSync(folder())
        .filter((file) => file !== 'manifest.json')
        .sort(),
    );
    for (const file of listed) expect(statSync(join(folder(), file.name)).size).toBe(file.bytes);
  });

  it("has trainer_state.json in Hugging Face's form", () => {
    expect(readJson(folder(), 'trainer_state.json')).toMatchObject({
      global_step: 2,
      epoch: 0.5,
      max_steps: 2,
      train_batch_size: 2,
      is_world_process_zero: true,
      log_history: [
        { step: 1, epoch: 0.25, loss: expect.any(Number), grad_norm: expect.any(Number), learning_rate: 1e-3 },
        { step: 2 },
      ],
    });
  });
});

describe('which checkpoints stay', () => {
  function folders(name: string, ...steps: number[]): OwnFiles {
    mkdirSync(folderOf(name));
    const own = new OwnFiles(folderOf(name));
    own.open();
    for (const step of steps) {
      mkdirSync(join(folderOf(name), `checkpoint-${step}`), { recursive: true });
      writeFileSync(join(folderOf(name), `checkpoint-${step}`, 'manifest.json'), '{}');
      own.noteFolder(`checkpoint-${step}`);
    }
    return own;
  }

  it('all without a limit; else the newest, and those that are spared, however their path is written', () => {
    const own = folders('stay', 2, 4, 10, 100);
    const { folder } = own;
    expect(removeOldCheckpoints(own, null, [])).toEqual([]);
    expect(removeOldCheckpoints(own, 4, [])).toEqual([]);
    expect(removeOldCheckpoints(own, 2, [`${folder}/../stay/checkpoint-2`])).toEqual([
      join(folder, 'checkpoint-4'),
      join(folder, 'checkpoint-10'),
    ]);
    expect(removeOldCheckpoints(own, 1, [`${folder}/checkpoint-2`])).toEqual([]);
    expect(checkpointsIn(folder)).toEqual({ complete: ['checkpoint-100', 'checkpoint-2'], hidden: [] });
    expect(removeOldCheckpoints(own, 1, [null])).toEqual([join(folder, 'checkpoint-2')]);
  });

  it('what this run did not write, and what someone changed, is not counted and stays', () => {
    const own = folders('others', 2, 4, 6, 8);
    const { folder } = own;
    mkdirSync(join(folder, 'checkpoint-1'));
    writeFileSync(join(folder, 'checkpoint-1', 'manifest.json'), '{}');
    writeFileSync(join(folder, 'checkpoint-2', 'notes.txt'), 'mine');
    expect(removeOldCheckpoints(own, 1, [])).toEqual([join(folder, 'checkpoint-4'), join(folder, 'checkpoint-6')]);
    expect(checkpointsIn(folder).complete).toEqual(['checkpoint-1', 'checkpoint-2', 'checkpoint-8']);
    expect(readFileSync(join(folder, 'checkpoint-2', 'notes.txt'), 'utf8')).toBe('mine');
  });

  it('the best one outlives the limit, also in a resumed run, and its state knows that it is the best', async () => {
    const flags = {
      max_steps: 3,
      learning_rate: 0.3, // the loss rises by a third in the second step, and is chaotic after the third
      eval_data_path: place.data,
      eval_strategy: 'steps',
      eval_steps: 1,
      save_strategy: 'steps',
      save_steps: 1,
      save_total_limit: 1,
      metric_for_best_model: 'loss',
    };
    const folder = folderOf('best');
    mkdirSync(folder);
    for (let stops = 0; stops < 2; stops++) {
      writeFileSync(join(folder, 'STOP'), '');
      await train(configOf(place, 'best', { ...flags, ...(stops > 0 ? { resume_from_checkpoint: 'latest' } : {}) }));
    }
    await train(configOf(place, 'best', { ...flags, resume_from_checkpoint: 'latest' }));
    const losses = eventsOf(folder, 'eval').map((event) => event.loss!);
    expect(losses).toHaveLength(3);
    const best = 1 + losses.indexOf(Math.min(...losses));
    expect(best).toBeLessThan(3);
    expect(checkpointsIn(folder).complete).toEqual([`checkpoint-${best}`, 'checkpoint-3']);
    const state = { best_metric: Math.min(...losses), best_model_checkpoint: join(folder, `checkpoint-${best}`) };
    for (const name of [`checkpoint-${best}`, 'checkpoint-3'])
      expect(readJson(folder, name, 'trainer_state.json')).toMatchObject(state);
  });
});

/** Flags of a run whose checkpoints (2.6 MB of weights, 5.2 MB of optimizer) are what does not fit. */
function flagsOf(folder: string, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return {
    model_name_or_path: place.model,
    data_path: place.data,
    output_dir: folder,
    per_device_train_batch_size: 2,
    max_steps: 4,
    save_steps: 1,
    logging_steps: 1,
    threads: 1,
    dataloader_num_workers: 0,
    ...more,
  };
}

/** A training that may write files of at most `kilobytes`; the signal is ignored, so that a write that is too long fails. */
function limited(kilobytes: number, flags: Readonly<Record<string, unknown>>): Running {
  const command = `trap '' XFSZ; ulimit -f ${kilobytes}; exec "$@"`;
  return start('bash', ['-c', command, 'bash', process.execPath, CLI, 'train', ...words(flags)]);
}

describe('a write that fails', () => {
  it('of a checkpoint: the run goes on and says so, and ends with its result', async () => {
    const folder = folderOf('optimizer too large');
    const { code, output } = await limited(4000, flagsOf(folder)).ended;
    expect(code, output).toBe(0);
    expect(output.match(/CHECKPOINT NOT SAVED at step \d: .*EFBIG/g)).toHaveLength(4);
    expect(eventsOf(folder, 'warning')).toMatchObject([1, 2, 3, 4].map((step) => ({ kind: 'write_failed', step })));
    expect(checkpointsIn(folder)).toEqual({ complete: [], hidden: [] });
    const whole = folderOf('whole');
    expect((await startTraining(flagsOf(whole)).ended).code).toBe(0);
    expect(weightsHash(folder)).toBe(weightsHash(whole));
  });

  it('of the result: a clear error; earlier checkpoints are whole, and with space the run ends as it should', async () => {
    const folder = folderOf('no result');
    mkdirSync(folder);
    writeFileSync(join(folder, 'STOP'), '');
    expect((await startTraining(flagsOf(folder)).ended).code).toBe(0);
    const { code, output } = await limited(1000, flagsOf(folder, { resume_from_checkpoint: 'latest' })).ended;
    expect(code, output).toBe(2);
    expect(output).toMatch(/error: Expected to write the trained model but received: .*EFBIG/);
    expect(output).toMatch(/cure: The training ended at step 4; checkpoint-1 is complete/);
    expect(eventsOf(folder, 'run_end').at(-1)).toMatchObject({ status: 'failed' });
    expect(checkpointsIn(folder)).toEqual({ complete: ['checkpoint-1'], hidden: [] });
    verifyCheckpoint(join(folder, 'checkpoint-1'));
    expect((await startTraining(flagsOf(folder, { resume_from_checkpoint: 'latest' })).ended).code).toBe(0);
    expect(weightsHash(folder)).toBe(weightsHash(folderOf('whole')));
  });
});

/** Fills the last page of a file of events: what the file system has given it would take events without a free byte. */
function fillPage(file: string): void {
  const page = 4096;
  const left = page - (statSync(file).size % page);
  const line = (message: string): string => `${JSON.stringify({ event: 'warning', kind: 'test', message })}\n`;
  if (left > line('').length) appendFileSync(file, line('x'.repeat(left - line('').length)));
}

describe('a full disk', () => {
  const disk = mountSmall(80);
  afterAll(() => {
    if (disk === null) return;
    unmount(disk);
  });

  it.skipIf(disk === null)('too little for another checkpoint: that is known before, and the run goes on', async () => {
    const folder = join(disk!, 'run');
    const { code, output } = await startTraining(flagsOf(folder)).ended;
    expect(code, output).toBe(0);
    expect(output).toMatch(/saved checkpoint-1/);
    expect(output).toMatch(
      /CHECKPOINT NOT SAVED at step 4: Expected 7\d MB free for a checkpoint in .* but received \d\d MB/,
    );
    const { complete, hidden } = checkpointsIn(folder);
    expect(hidden).toEqual([]);
    expect(complete.length).toBeGreaterThan(0);
    for (const name of complete) verifyCheckpoint(join(folder, name));
    expect(weightsHash(folder)).toBe(weightsHash(folderOf('whole')));
    rmSync(folder, { recursive: true });
  });

  it.skipIf(disk === null)(
    'not a byte left: the run trains to its end, says what is lost, and ends with an error',
    async () => {
      const folder = join(disk!, 'full');
      mkdirSync(folder);
      writeFileSync(join(folder, 'STOP'), '');
      expect((await startTraining(flagsOf(folder)).ended).code).toBe(0);
      const events = readFileSync(join(folder, 'events.jsonl'));
      const flags = flagsOf(folder, { resume_from_checkpoint: 'latest' });
      fillDisk(disk!);
      const full = await startTraining(flags).ended; // known before the first step
      expect(full.code, full.output).toBe(2);
      expect(full.output).toMatch(/error: Expected to write in .*ENOSPC/);
      rmSync(join(disk!, 'ballast'));
      const { config } = resolveTrainConfig(words(flags));
      const said: string[] = [];
      const running = train(config, {
        onEvent: (event) => {
          if (event.event === 'run_start') {
            fillDisk(disk!);
            fillPage(join(folder, 'events.jsonl'));
          }
          if (event.event === 'warning') said.push(event.message);
        },
      });
      await expect(running).rejects.toThrow(
        /Expected .* free for the trained model|Expected to write the trained model/,
      );
      expect(said).toEqual(
        expect.arrayContaining([
          expect.stringMatching(/^EVENTS ARE NOT RECORDED .*ENOSPC/),
          expect.stringMatching(/^CHECKPOINT NOT SAVED at step 3/),
        ]),
      );
      verifyCheckpoint(join(folder, 'checkpoint-1'));
      expect(checkpointsIn(folder)).toEqual({ complete: ['checkpoint-1'], hidden: [] });
      expect(readEvents(join(folder, 'events.jsonl')).length).toBeGreaterThan(0);
      expect(readFileSync(join(folder, 'events.jsonl')).subarray(0, events.length).equals(events)).toBe(true);
      rmSync(join(disk!, 'ballast'));
      expect((await startTraining(flags).ended).code).toBe(0);
      expect(weightsHash(folder)).toBe(weightsHash(folderOf('whole')));
    },
  );
});
