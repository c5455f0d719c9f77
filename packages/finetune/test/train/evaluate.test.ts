import { copyFileSync, cpSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { LoadedModel } from '@minicpm-finetune/minicpm-v';
import type { RunEvent } from '@minicpm-finetune/run';
import { SafetensorsFile } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { expectNear, FORWARD } from '../../../torch/test/precision.js';
import { fixedRecords } from '../../src/data/question.js';
import type { EvalAnswer } from '../../src/train/answers.js';
import { answerMetrics } from '../../src/train/metrics.js';
import { train } from '../../src/train/train.js';
import { configOf, eventsOf, lossesOf, makePlace, type Place, readJson } from '../support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

async function run(name: string, flags: Readonly<Record<string, unknown>>): Promise<string> {
  const config = configOf(place, name, { eval_data_path: place.data, ...flags });
  await train(config);
  return config.output.output_dir;
}

const answersIn = (...path: string[]): EvalAnswer[] =>
  readFileSync(join(...path), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as EvalAnswer);

describe('evaluation', () => {
  it('measures the loss of training data before its step, in batches of any size', async () => {
    const flags = { eval_on_start: true, max_steps: 1, per_device_train_batch_size: 8, do_eval: true };
    const one = await run('loss-1', { ...flags, per_device_eval_batch_size: 1 });
    const three = await run('loss-3', { ...flags, per_device_eval_batch_size: 3 });
    const [before, after] = eventsOf(one, 'eval');
    expect(before).toMatchObject({ step: 0, samples: 8, metrics: {} });
    expectNear(before!.loss!, lossesOf(one)[0]!, FORWARD);
    expect(after!.step).toBe(1);
    expect(after!.loss).toBeLessThan(before!.loss!);
    eventsOf(three, 'eval').forEach(({ loss }, i) => {
      expectNear(loss!, eventsOf(one, 'eval')[i]!.loss!, FORWARD);
    });
    const state = readJson<{ log_history: Record<string, number>[] }>(one, 'trainer_state.json');
    expect(state.log_history.at(-1)).toMatchObject({ step: 1, eval_loss: after!.loss });
  });

  it('changes nothing in the training, adapters with dropout included', async () => {
    const flags = { max_steps: 4, use_lora: true, lora_r: 4, lora_dropout: 0.3 };
    const quiet = await run('quiet', flags);
    const often = await run('often', { ...flags, eval_strategy: 'steps', eval_steps: 1, eval_generate: 2 });
    expect(lossesOf(often)).toEqual(lossesOf(quiet));
    const { tensors } = eventsOf(often, 'step')[3]!.memory;
    expect(tensors).toBe(eventsOf(quiet, 'step')[3]!.memory.tensors);
  });
});

describe('answers (--eval_generate)', () => {
  it('are those of fixed records, with metrics and images, and become right', async () => {
    const folder = await run('answers', {
      ...{ max_steps: 60, per_device_train_batch_size: 8, learning_rate: 3e-3 },
      ...{ eval_strategy: 'steps', eval_steps: 30, eval_generate: 4, eval_on_start: true },
    });
    const events = eventsOf(folder, 'eval');
    expect(events.map(({ answers_file }) => answers_file)).toEqual([
      'eval/step-0/answers.jsonl',
      'eval/step-30/answers.jsonl',
      'eval/step-60/answers.jsonl',
    ]);
    const records = readJson<{ id: string; conversations: { content: string }[] }[]>(place.data);
    const [first, , last] = events.map(({ answers_file }) => answersIn(folder, answers_file!));
    for (const answers of [first!, last!]) {
      expect(answers.map(({ record }) => record)).toEqual([0, 2, 4, 6]);
      for (const { record, id, question, reference, answer, images, exact_match, anls, rouge_l } of answers) {
        const [asked, told] = records[record]!.conversations;
        expect({ id, question, reference }).toEqual({
          id: records[record]!.id,
          question: asked!.content,
          reference: told!.content,
        });
        expect({ exact_match, anls, rouge_l }).toEqual(answerMetrics(answer, told!.content));
        const picture = readFileSync(join(folder, 'eval', 'step-0', images[0]!));
        expect(picture.equals(readFileSync(join(place.folder, `${record % 4}.bmp`)))).toBe(true);
      }
    }
    expect(last!.map(({ answer }) => answer)).not.toEqual(first!.map(({ answer }) => answer));
    const mean = last!.reduce((sum, { rouge_l }) => sum + rouge_l! / 4, 0);
    expect(events[2]!.metrics.rouge_l).toBeCloseTo(mean, 12);
    expect(events[2]!.metrics.rouge_l).toBeGreaterThan(events[0]!.metrics.rouge_l!);
  });

  it('show the pictures that were asked about, also when one changed under its name', async () => {
    const flags = {
      max_steps: 2,
      eval_strategy: 'steps',
      eval_steps: 1,
      eval_generate: 2,
      per_device_train_batch_size: 1,
    };
    const config = configOf(place, 'pictures', { eval_data_path: place.data, ...flags });
    const picture = join(place.folder, '0.bmp');
    const before = readFileSync(picture);
    try {
      await train(config, {
        onEvent: ({ event, step }: RunEvent & { step?: number }) => {
          if (event === 'eval' && step === 1) copyFileSync(join(place.folder, '3.bmp'), picture);
        },
      });
      const { output_dir: folder } = config.output;
      const [first, second] = [1, 2].map((step) => answersIn(folder, 'eval', `step-${step}`, 'answers.jsonl')[0]!);
      const shown = ({ images }: EvalAnswer): Buffer => readFileSync(join(folder, 'eval', 'step-1', images[0]!));
      expect(shown(first!).equals(before)).toBe(true);
      expect(shown(second!).equals(readFileSync(join(place.folder, '3.bmp')))).toBe(true);
      expect(first!.content.text).toBe(second!.content.text);
      expect(first!.content.images).not.toEqual(second!.content.images);
      const models = [1, 2].map((step) => readJson<{ trained: string }>(folder, 'eval', `step-${step}`, 'model.json'));
      expect(models[0]!.trained).toMatch(/^content-sha256:/);
      expect(models[0]!.trained).not.toBe(models[1]!.trained);
    } finally {
      writeFileSync(picture, before);
    }
  });

  it('picks records evenly, all of them if there are fewer', () => {
    expect(fixedRecords(10, 4)).toEqual([0, 2, 5, 7]);
    expect(fixedRecords(2, 4)).toEqual([0, 1]);
  });
});

describe('the best model', () => {
  const sameWeights = (a: string, b: string): boolean =>
    readFileSync(join(a, 'model.safetensors')).equals(readFileSync(join(b, 'model.safetensors')));
  // A learning rate that is far too large: the loss rises from the first step on.
  const worse = { max_steps: 3, learning_rate: 0.3, eval_strategy: 'steps', eval_steps: 1 };

  it('is what is left in the end with --load_best_model_at_end', async () => {
    const flags = { ...worse, save_strategy: 'steps', save_steps: 1, save_total_limit: 1 };
    const folder = await run('best', { ...flags, load_best_model_at_end: true });
    const losses = eventsOf(folder, 'eval').map(({ loss }) => loss!);
    const best = losses.indexOf(Math.min(...losses)) + 1;
    expect(best).toBeLessThan(3);
    const state = readJson<{ best_metric: number; best_model_checkpoint: string }>(folder, 'trainer_state.json');
    expect(state.best_metric).toBe(losses[best - 1]);
    expect(state.best_model_checkpoint).toBe(join(folder, `checkpoint-${best}`));
    expect(sameWeights(folder, join(folder, `checkpoint-${best}`))).toBe(true);
    expect(sameWeights(folder, join(folder, 'checkpoint-3'))).toBe(false);
    expect(existsSync(join(folder, 'optimizer.safetensors'))).toBe(false);
    expect(existsSync(join(folder, 'tokenizer.json'))).toBe(true);
    expect(new SafetensorsFile(join(folder, 'model.safetensors')).infos.size).toBeGreaterThan(0);
  });

  it('is an adapter when adapters train', async () => {
    const folder = await run('best-lora', {
      ...{
        ...worse,
        use_lora: true,
        lora_r: 4,
        learning_rate: 1,
        lora_dropout: 0,
        lora_modules_to_save: 'embed_tokens',
      },
      ...{ save_strategy: 'steps', save_steps: 1, load_best_model_at_end: true },
    });
    const { best_model_checkpoint: best } = readJson<{ best_model_checkpoint: string }>(folder, 'trainer_state.json');
    expect(best).not.toBe(join(folder, 'checkpoint-3'));
    const [saved, kept] = [folder, best].map((one) => readFileSync(join(one, 'adapter_model.safetensors')));
    expect(saved!.equals(kept!)).toBe(true);
  });

  /** A run that is stopped after its second step, when the first one was the best; its folder is renamed then. */
  async function stoppedAndMoved(
    name: string,
  ): Promise<{ before: string; moved: string; flags: Record<string, unknown> }> {
    const flags = { ...worse, eval_data_path: place.data, ...{ save_strategy: 'steps', save_steps: 1 } };
    const config = configOf(place, name, { ...flags, load_best_model_at_end: true });
    const stop = new AbortController();
    const onEvent = (event: RunEvent): void => {
      if (event.event === 'step' && event.step === 2) stop.abort('sigterm');
    };
    await train(config, { signal: stop.signal, onEvent });
    const before = config.output.output_dir;
    const moved = `${before}-moved`;
    renameSync(before, moved);
    return { before, moved, flags: { ...flags, load_best_model_at_end: true, resume_from_checkpoint: 'latest' } };
  }
  const warnings = (folder: string): string[] => eventsOf(folder, 'warning').map(({ message }) => message);

  it('is found in a run folder that was renamed, whatever is under its old name', async () => {
    const { before, moved, flags } = await stoppedAndMoved('was-here');
    cpSync(join(moved, 'checkpoint-2'), join(before, 'checkpoint-1'), { recursive: true });
    await train(configOf(place, basename(moved), flags));
    expect(sameWeights(moved, join(moved, 'checkpoint-1'))).toBe(true);
    expect(sameWeights(moved, join(moved, 'checkpoint-2'))).toBe(false);
    const { best_model_checkpoint: best } = readJson<{ best_model_checkpoint: string }>(moved, 'trainer_state.json');
    expect(best).toBe(join(moved, 'checkpoint-1'));
    expect(warnings(moved).filter((line) => line.includes('LAST MODEL'))).toEqual([]);
  });

  it('is not another checkpoint that has its name now, nor a damaged one', async () => {
    const kinds: [string, (folder: string) => void, RegExp][] = [
      [
        'replaced',
        (folder) => {
          rmSync(join(folder, 'checkpoint-1'), { recursive: true });
          cpSync(join(folder, 'checkpoint-2'), join(folder, 'checkpoint-1'), { recursive: true });
        },
        /THE LAST MODEL IS SAVED.*checkpoint-1 is another checkpoint now/,
      ],
      [
        'damaged',
        (folder) => {
          const file = join(folder, 'checkpoint-1', 'model.safetensors');
          const bytes = readFileSync(file);
          bytes[bytes.length - 1]! ^= 1;
          writeFileSync(file, bytes);
        },
        /THE LAST MODEL IS SAVED.*checkpoint-1 is damaged/,
      ],
    ];
    for (const [name, change, said] of kinds) {
      const { moved, flags } = await stoppedAndMoved(name);
      change(moved);
      await train(configOf(place, basename(moved), flags));
      expect(warnings(moved).join('\n')).toMatch(said);
      expect(sameWeights(moved, join(moved, 'checkpoint-3'))).toBe(true);
    }
  });

  it('goes by the metric that is asked for, larger or smaller as asked', async () => {
    const answer = vi.spyOn(LoadedModel.prototype, 'answer');
    const texts = ['nothing', 'red', 'a red'];
    for (const text of texts) answer.mockResolvedValueOnce([{ text, tokens: 1, end: 'stop' }]);
    const flags = { ...worse, learning_rate: 1e-5, eval_generate: 1, save_strategy: 'steps', save_steps: 1 };
    const folder = await run('rouge', { ...flags, metric_for_best_model: 'rouge_l', load_best_model_at_end: true });
    answer.mockRestore();
    expect(eventsOf(folder, 'eval').map(({ metrics }) => metrics.rouge_l)).toEqual([0, 1, 2 / 3]);
    const state = readJson<{ best_metric: number; best_model_checkpoint: string }>(folder, 'trainer_state.json');
    expect(state).toMatchObject({ best_metric: 1, best_model_checkpoint: join(folder, 'checkpoint-2') });
    expect(sameWeights(folder, join(folder, 'checkpoint-2'))).toBe(true);
  });
});
