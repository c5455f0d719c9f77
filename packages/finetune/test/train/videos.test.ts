/** Whole runs on videos: what the result keeps of how they were read, and what commands make of that. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadModel } from '@minicpm-finetune/minicpm-v';
import { type ChatMessage, readConfig } from '@minicpm-finetune/processor';
import { setThreads } from '@minicpm-finetune/torch';
import sharp from 'sharp';
import { afterAll, describe, expect, it } from 'vitest';
import { tinyCheckpoint } from '../../../minicpm-v/test/support/tiny.js';
import { command } from '../support/command.js';
import { writePicture } from '../support/tiny-model.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'video-settings-'));
afterAll(() => rmSync(work, { recursive: true }));

const clip = join(work, 'clip');
mkdirSync(clip);
for (const i of [0, 1, 2, 3]) writePicture(join(clip, `frame${i}.bmp`), i + 2);
const data = join(work, 'data.json');
const turns = [
  { role: 'user', content: '<video>What moves?' },
  { role: 'assistant', content: 'Noise.' },
];
writeFileSync(data, JSON.stringify([{ video: 'clip', conversations: turns }]));

const json = (...path: string[]): Record<string, unknown> =>
  JSON.parse(readFileSync(join(work, ...path), 'utf8')) as Record<string, unknown>;

/** Trains a step. Returns what was said. */
async function train(model: string, output: string, ...words: readonly string[]): Promise<string> {
  const all = `--model_name_or_path ${model} --data_path ${data} --output_dir ${join(work, output)}`.split(' ');
  const rest = '--max_steps 1 --device cpu --threads 1 --learning_rate 0 --model_max_length 2048'.split(' ');
  const { code, stderr } = await command('train', ...all, ...rest, ...words);
  expect(code, stderr).toBe(0);
  return stderr;
}

const FLAGS = ['--video_max_frames', '2', '--video_fps', '0.5'];
const SETTINGS = { fps: 0.5, max_frames: 2, max_slice_nums: 1 };
const TRAINED = 'video_fps 0.5, video_max_frames 2, video_max_slice_nums 1';
const PUBLISHED = 'video_fps 1, video_max_frames 128, video_max_slice_nums 1';
const QUESTION: ChatMessage[] = [{ role: 'user', content: [{ video: clip }, 'What moves?'] }];

async function framesOf(model: string, adapter: string[] = []): Promise<number> {
  using loaded = await loadModel({ model, adapter });
  return (await loaded.encode(QUESTION)).videos![0]!.times.length;
}

describe('how a training read videos', () => {
  const model = tinyCheckpoint(work, 'minicpm-v-4_6');

  it('is in the manifest of its adapter, and every command reads them so unless a flag says otherwise', async () => {
    const adapter = join(work, 'adapter');
    const lora = ['--use_lora', 'true', '--lora_r', '2', '--tune_vision', 'false'];
    const said = await train(model, 'adapter', ...FLAGS, ...lora);
    expect(said).toContain(`videos are read with ${TRAINED}, the checkpoint says ${PUBLISHED}.`);
    expect(json('adapter', 'minicpm_manifest.json').videos).toEqual(SETTINGS);
    expect([await framesOf(model), await framesOf(model, [adapter])]).toEqual([4, 2]);
    const notice = `was trained with ${TRAINED}, the base says ${PUBLISHED}: videos are read as in the training.`;
    const ask = `chat --model ${model} --adapter ${adapter} --video ${clip} --max_new_tokens 1 --device cpu`.split(' ');
    const asked = (await command(...ask, '--prompt', 'What?')).stderr;
    expect(asked).toContain(notice);
    expect(asked).not.toContain('asked with');
    expect((await command(...ask, '--prompt', 'What?', '--video_max_frames', '3')).stderr).toContain(
      `trained with ${TRAINED}, asked with video_fps 0.5, video_max_frames 3, video_max_slice_nums 1.`,
    );
    const rendered = await command(
      ...`render --model_name_or_path ${model} --data_path ${data} --adapter ${adapter}`.split(' '),
    );
    expect(rendered.stderr).toContain(notice);
    expect(rendered.stdout.match(/<image>/g)).toHaveLength(2);
    await train(model, 'next', ...lora, '--lora_weight_path', adapter);
    expect(json('next', 'minicpm_manifest.json').videos).toEqual(SETTINGS);
    const merged = await command(
      ...`merge --model ${model} --adapter ${adapter} --output_dir ${join(work, 'merged')}`.split(' '),
    );
    expect(merged.stderr).toContain(notice);
    expect(json('merged', 'config.json').video_sampling).toEqual(SETTINGS);
    expect(await framesOf(join(work, 'merged'))).toBe(2);
  });

  it('is in the config.json of a full training, which otherwise stays as it was', async () => {
    await train(model, 'full', ...FLAGS);
    expect(readConfig(join(work, 'full')).video).toMatchObject({ fps: 0.5, maxFrames: 2, maxSliceNums: 1 });
    const { video_sampling: sampling, ...rest } = json('full', 'config.json');
    expect(sampling).toEqual(SETTINGS);
    expect(rest).toEqual(JSON.parse(readFileSync(join(model, 'config.json'), 'utf8')));
    const said = await train(join(work, 'full'), 'again');
    expect(said).not.toContain('videos are read with');
    expect(json('again', 'config.json').video_sampling).toEqual(SETTINGS);
    await train(model, 'published');
    expect(readFileSync(join(work, 'published', 'config.json'), 'utf8')).toBe(
      readFileSync(join(model, 'config.json'), 'utf8'),
    );
  });
});

it('is shown by the answers of a training: frames with their times, once', async () => {
  const model = join(work, 'minicpm-v-4_6');
  await train(
    model,
    'answers',
    ...FLAGS,
    '--eval_data_path',
    data,
    '--eval_generate',
    '1',
    '--eval_strategy',
    'steps',
    '--eval_steps',
    '1',
  );
  const lines = readFileSync(join(work, 'answers', 'eval', 'step-1', 'answers.jsonl'), 'utf8')
    .trim()
    .split('\n');
  const [line] = lines.map(
    (text) => JSON.parse(text) as { videos: { frames: string[]; times: number[]; seen: number }[] },
  );
  expect(line!.videos).toMatchObject([{ times: [0, 6], seen: 2 }]);
  for (const frame of line!.videos[0]!.frames) {
    const { format, width } = await sharp(join(work, 'answers', 'eval', 'step-1', frame)).metadata();
    expect([format, width]).toEqual(['jpeg', 32]);
  }
  const events = readFileSync(join(work, 'answers', 'events.jsonl'), 'utf8')
    .trim()
    .split('\n');
  const all = events.map((text) => JSON.parse(text) as Record<string, unknown>);
  const phases = all.filter(({ event }) => event === 'phase').map(({ name }) => name);
  expect(phases).toEqual(['training', 'evaluating', 'answering', 'saving']);
  const seconds = all[0]!.startup_seconds as Record<string, number>;
  expect(Object.keys(seconds)).toEqual(['preparing', 'loading']);
  for (const one of Object.values(seconds)) expect(one).toBeGreaterThan(0);
});
