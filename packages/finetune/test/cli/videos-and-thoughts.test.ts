/** Commands that answer, with videos and thoughts: chat and generate on a model that has both, and on one that has none. */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { UserError } from '@minicpm-finetune/run';
import { afterAll, describe, expect, it } from 'vitest';
import { tinyCheckpoint } from '../../../minicpm-v/test/support/tiny.js';
import { chat } from '../../src/cli/chat/chat.js';
import type { ChatOptions } from '../../src/cli/chat/options.js';
import { generateAnswers } from '../../src/cli/generate/generate.js';
import type { AnswerFileOptions } from '../../src/cli/generate/options.js';
import { type ChatMessage, loadModel } from '../../src/index.js';
import { GREEDY } from '../support/answer-options.js';
import { Reports } from '../support/reports.js';
import { writePicture } from '../support/tiny-model.js';

const work = mkdtempSync(join(tmpdir(), 'videos-'));
afterAll(() => rmSync(work, { recursive: true }));

const model = tinyCheckpoint(work, 'minicpm-v-4_6');
const older = tinyCheckpoint(work, 'minicpm-v-2_6');
const picture = writePicture(join(work, 'a.bmp'), 1);
const clip = join(work, 'clip');
mkdirSync(clip);
for (const i of [0, 1, 2]) writePicture(join(clip, `frame${i}.bmp`), i + 2);

const OPTIONS: ChatOptions = {
  model,
  adapters: [],
  images: [],
  videos: [],
  prompt: 'What moves?',
  system: null,
  maxNewTokens: 8,
  ...GREEDY,
};

async function ask(options: Partial<ChatOptions>, lines: readonly string[] = []) {
  const stdin = new PassThrough();
  stdin.end(lines.map((line) => `${line}\n`).join(''));
  const written = { stdout: '', stderr: '' };
  const stream = (name: 'stdout' | 'stderr') => ({
    write(text: string): void {
      written[name] += text;
    },
  });
  await chat({ ...OPTIONS, ...options }, { stdin, stdout: stream('stdout'), stderr: stream('stderr') });
  return written;
}

async function refusal(work: Promise<unknown>): Promise<UserError> {
  const error = await work.catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(UserError);
  return error as UserError;
}

describe('chat', () => {
  it('shows videos after pictures, as the program API does', async () => {
    const messages: ChatMessage[] = [{ role: 'user', content: [{ image: picture }, { video: clip }, 'What moves?'] }];
    using loaded = await loadModel({ model, device: 'cpu' });
    const whole = await loaded.encode(messages);
    expect(whole.videos).toEqual([{ bounds: expect.any(Array), times: [0, 1, 2] }]);
    expect((await loaded.encode(messages, { video: { maxFrames: 2 } })).videos![0]!.times).toHaveLength(2);
    const [expected] = await loaded.generate([messages], { maxNewTokens: 8 });
    const shown = { images: [picture], videos: [clip] };
    expect(await ask(shown)).toEqual({ stdout: `${expected!.text}\n`, stderr: '' });
    const lines = [`/video ${clip}`, 'What moves?'];
    const conversation = await ask({ prompt: null, images: [picture] }, lines);
    expect(conversation.stdout).toBe(`${expected!.text}\n`);
    expect(conversation.stderr).toContain('One video for the next question.');
    const [fewer] = await loaded.generate([messages], { maxNewTokens: 8, video: { maxFrames: 1 } });
    const other = await ask({ ...shown, video: { maxFrames: 1 } });
    expect(other.stdout).toBe(`${fewer!.text}\n`);
    expect(other.stderr).toContain(
      'video_max_frames 128, video_max_slice_nums 1, asked with video_fps 1, video_max_frames 1,',
    );
  });

  it('begins a thought where it is asked to', async () => {
    const messages: ChatMessage[] = [{ role: 'user', content: 'What moves?' }];
    using loaded = await loadModel({ model, device: 'cpu' });
    const end = async (enableThinking: boolean) => {
      const { inputIds } = await loaded.encode(messages, { enableThinking });
      return (await loaded.tokenizer.decode([...inputIds])).split('assistant\n')[1];
    };
    expect([await end(true), await end(false)]).toEqual(['<think>\n', '<think>\n\n</think>\n\n']);
    const [thought] = await loaded.generate([messages], { maxNewTokens: 8, enableThinking: true });
    expect((await ask({ enableThinking: true })).stdout.trim()).toBe(thought!.text);
  });

  it('refuses, before the weights are opened, what a model cannot be asked', async () => {
    const missing = join(work, 'no.mp4');
    expect(await refusal(ask({ videos: [missing] }))).toMatchObject({ flag: '--video' });
    const empty = join(work, 'empty');
    mkdirSync(empty, { recursive: true });
    const frames = await refusal(ask({ videos: [clip, empty] }));
    expect(frames.flag).toBe('--video');
    expect(frames.turn).toBeUndefined();
    expect(frames.message).toContain('Expected the frames of a video');
    const videos = await refusal(ask({ model: older, videos: [clip] }));
    expect(videos).toMatchObject({ flag: '--video' });
    expect(videos.message).toContain('a model that reads no videos');
    const thoughts = await refusal(ask({ model: older, enableThinking: true }));
    expect(thoughts).toMatchObject({ flag: '--enable_thinking' });
    expect(thoughts.message).toContain('MiniCPM-V-2_6');
    const template = tinyCheckpoint(work, 'minicpm-v-4_5'); // with the chat template of 2.6
    expect(await refusal(ask({ model: template, enableThinking: true }))).toMatchObject({ flag: '--enable_thinking' });
  });

  it('says which flags of videos are without effect', async () => {
    const { stderr } = await ask({ model: older, video: { maxFrames: 4 } });
    expect(stderr).toContain('notice: --video_max_frames 4: without effect: MiniCPM-V-2_6 reads no videos.');
  });
});

describe('generate', () => {
  const turn = (role: string, content: string) => ({ role, content });
  const options = (name: string, change: Partial<AnswerFileOptions> = {}): AnswerFileOptions => ({
    model,
    adapters: [],
    dataPaths: [join(work, 'data.json')],
    output: join(work, name),
    batchSize: 2,
    allowSpecialText: false,
    onBadRecord: 'stop',
    askChanged: false,
    maxNewTokens: 6,
    ...GREEDY,
    ...change,
  });
  const answersOf = (name: string): string[] => {
    const lines = readFileSync(join(work, name), 'utf8').trim().split('\n');
    return lines.map((line) => (JSON.parse(line) as { answer: string }).answer);
  };
  const write = (answer: string): void => {
    const conversations = [turn('user', '<video>What moves?'), turn('assistant', answer)];
    writeFileSync(join(work, 'data.json'), JSON.stringify([{ video: 'clip', conversations }]));
  };

  it('compares answers without the thoughts in front of them', async () => {
    write('nothing');
    await generateAnswers(options('first.jsonl'));
    const [answer] = answersOf('first.jsonl');
    write(`<think>\nI look.\n</think>\n\n${answer}`);
    expect(await generateAnswers(options('second.jsonl'))).toMatchObject({ compared: 1, exact: 1 });
    write(`<think>\n${answer}\n</think>\n\nnothing`);
    expect(await generateAnswers(options('third.jsonl'))).toMatchObject({ compared: 1, exact: 0 });
  });

  it('answers by thoughts and frames that are asked for, and resumes with the same alone', async () => {
    write('nothing');
    const name = 'thoughts.jsonl';
    const change = { enableThinking: true, video: { maxFrames: 2 } };
    await generateAnswers(options(name, change));
    expect(await generateAnswers(options(name, change))).toMatchObject({ records: 1, resumed: 1 });
    expect((await refusal(generateAnswers(options(name)))).message).toContain(
      '--enable_thinking: true then, false now',
    );
    const frames = generateAnswers(options(name, { enableThinking: true }));
    expect((await refusal(frames)).message).toContain('--video_max_frames: 2 then, null now');
    using loaded = await loadModel({ model, device: 'cpu' });
    const question: ChatMessage[] = [{ role: 'user', content: [{ video: clip }, 'What moves?'] }];
    const [expected] = await loaded.generate([question], { maxNewTokens: 6, ...change });
    expect(answersOf(name)).toEqual([expected!.text]);
  });

  it('says what is without effect for a model without videos', async () => {
    copyFileSync(picture, join(work, 'b.bmp'));
    const data = join(work, 'pictures.json');
    const conversations = [turn('user', 'What?'), turn('assistant', 'Noise.')];
    writeFileSync(data, JSON.stringify([{ image: 'b.bmp', conversations }]));
    const reporter = new Reports();
    await generateAnswers(options('older.jsonl', { model: older, dataPaths: [data], video: { fps: 2 } }), { reporter });
    expect(reporter.notices).toContain('--video_fps 2: without effect: MiniCPM-V-2_6 reads no videos.');
  });
});
