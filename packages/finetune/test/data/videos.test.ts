/**
 * Videos as data: files, folders and lists of frames, and what is wrong with bad ones. With the system's ffmpeg; where
 * there is none, only what needs none.
 */
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ENGLISH, UserError } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { beforeAll, describe, expect, it, vi } from 'vitest';
import { tinyCheckpoint } from '../../../minicpm-v/test/support/tiny.js';
import { checkRecords } from '../../src/cli/check-data/check-data.js';
import { formatReport } from '../../src/cli/check-data/report.js';
import { contactSheet } from '../../src/cli/render/contact-sheet.js';
import { recordJson } from '../../src/cli/render/json.js';
import { Dataset } from '../../src/data/dataset.js';
import { Encoder, type EncoderDataFlags, encoderSetup } from '../../src/data/encoder.js';
import { contentOf, filesOf, stampOf } from '../../src/data/identity.js';
import { preflight } from '../../src/data/preflight.js';
import { collate, disposeBatch } from '../../src/engine/collate.js';
import { SILENT } from '../../src/report/reporter.js';
import { DATA_FLAGS } from '../support/made-data.js';

const folder = mkdtempSync(join(tmpdir(), 'videos-'));
const at = (name: string): string => join(folder, name);
const [WIDTH, HEIGHT, FRAMES] = [64, 48, 8];
const MODEL = { llm_type: null, max_slice_nums: null, scale_resolution: null } as const;
const DATA = { ...DATA_FLAGS, model_max_length: 1024 };
const hasFfmpeg = ['ffmpeg', 'ffprobe'].every((program) => spawnSync(program, ['-version']).status === 0);

const ffmpeg = (...words: string[]): void =>
  void execFileSync('ffmpeg', ['-v', 'error', '-y', ...words], { cwd: folder });

/** Frame `i`: a ramp whose brightness says its number. */
async function writeFrame(path: string, i: number): Promise<void> {
  const data = Uint8Array.from(
    { length: WIDTH * HEIGHT * 3 },
    (_, k) => (30 * i + (k % 7) + Math.trunc(k / 400)) & 255,
  );
  await sharp(data, { raw: { width: WIDTH, height: HEIGHT, channels: 3 } })
    .png()
    .toFile(path);
}

beforeAll(async () => {
  for (const name of ['frames', 'empty', 'sizes']) mkdirSync(at(name));
  for (let i = 0; i < FRAMES; i++) await writeFrame(at(`frames/${i + 1}.png`), i);
  cpSync(at('frames/1.png'), at('sizes/1.png'));
  await sharp(at('frames/2.png')).resize(32, 48).toFile(at('sizes/2.png'));
  for (const version of ['minicpm-v-2_6', 'minicpm-v-4_5', 'minicpm-v-4_6', 'minicpm-v-4_7'] as const)
    tinyCheckpoint(folder, version);
  if (!hasFfmpeg) return;
  ffmpeg('-framerate', '2', '-i', 'frames/%d.png', '-c:v', 'ffv1', '-pix_fmt', 'bgr0', 'lossless.mkv');
  ffmpeg('-framerate', '2', '-i', 'frames/%d.png', '-c:v', 'mpeg4', '-g', '4', '-movflags', 'faststart', 'whole.mp4');
  ffmpeg('-f', 'lavfi', '-i', 'sine=duration=1', '-c:a', 'aac', 'sound.mp4');
});

const turns = (question: string, answer = 'A') => [
  { role: 'user', content: question },
  { role: 'assistant', content: answer },
];

async function opened(records: object[], version: string, flags: Partial<EncoderDataFlags> = {}) {
  const file = at(`data-${Math.random().toString(36).slice(2)}.json`);
  writeFileSync(file, JSON.stringify(records));
  const encoder = await Encoder.open(encoderSetup(at(version), MODEL, { ...DATA, ...flags }));
  return { file, encoder, dataset: await Dataset.open([file], () => {}) };
}

async function encoded(record: object, version: string, flags: Partial<EncoderDataFlags> = {}) {
  const { dataset, encoder } = await opened([record], version, flags);
  const { sample, notices } = await encoder.encode(await dataset.read(0));
  await dataset.close();
  return { ...sample!, notices, text: await encoder.tokenizer.decode([...sample!.inputIds]) };
}

const failure = async (video: unknown, version = 'minicpm-v-4_6'): Promise<UserError> => {
  const error = await encoded({ video, conversations: turns('Q') }, version).catch((cause: unknown) => cause);
  expect(error).toBeInstanceOf(UserError);
  return error as UserError;
};

describe('frames that are pictures', () => {
  it('are a video of 4.6: numbered, frame after frame', async () => {
    const sample = await encoded({ video: 'frames', conversations: turns('Q') }, 'minicpm-v-4_6');
    expect(sample.pictures).toHaveLength(FRAMES);
    expect(sample.videos).toEqual([{ bounds: [0, FRAMES], times: [0, 1, 2, 3, 4, 5, 6, 7] }]);
    const pads = '<|video_pad|>'.repeat(sample.imageBounds[0]![1] - sample.imageBounds[0]![0]);
    const shown = `<image_id>0</image_id>${`<image>${pads}</image>`.repeat(FRAMES)}`;
    expect(sample.text).toContain(`user\n${shown}\nQ<|im_end|>`);
    expect(sample).not.toHaveProperty('groups');
    expect(sample).not.toHaveProperty('positionIds');
  });

  it('have no number in 4.7, and positions on a canvas', async () => {
    const sample = await encoded({ video: 'frames', conversations: turns('Q') }, 'minicpm-v-4_7');
    expect(sample.text).toContain('user\n<image><|video_pad|>');
    expect(sample.positionIds).toHaveLength(3 * sample.inputIds.length);
  });

  it('are lines of 4.5, with times', async () => {
    const list = ['frames/1.png', 'frames/2.png', 'frames/3.png'];
    const sample = await encoded({ videos: [list], messages: turns('<video>Q') }, 'minicpm-v-4_5', { video_fps: 2 });
    expect(sample.pictures.map(({ temporalId }) => temporalId)).toEqual([0, 5, 10]);
    expect(sample.text).toMatch(/user\n(?:<image>(?:<unk>)+<\/image>\n){3}Q<\|im_end\|>/);
  });

  it('share tokens in 4.5 where there are many: groups for the collator', async () => {
    const flags = { video_fps: 1, video_max_frames: 3 };
    const sample = await encoded({ video: 'frames', conversations: turns('Q') }, 'minicpm-v-4_5', flags);
    expect(sample.groups).toEqual([3, 3, 2]);
    expect(sample.imageBounds).toHaveLength(3);
    const other = await encoded({ conversations: turns('No pictures.') }, 'minicpm-v-4_5');
    const image = await encoded({ image: 'frames/1.png', conversations: turns('Q') }, 'minicpm-v-4_5');
    const batch = collate([other, sample, image]);
    expect(batch.inputs.groups).toEqual([[3, 3, 2, 1]]);
    expect(batch.inputs.pictures[0]!.map(({ temporalId }) => temporalId)).toEqual([
      0,
      10,
      20,
      30,
      40,
      50,
      60,
      70,
      undefined,
    ]);
    expect(batch.inputs.positionIds.shape).toEqual([1, batch.tokens]);
    disposeBatch(batch);
  });

  it('are cut with --video_max_slice_nums: of a group, one slice of every frame after the other', async () => {
    const flags = { video_fps: 1, video_max_frames: 4, video_max_slice_nums: 4 };
    const large = ['big1.png', 'big2.png'];
    for (const name of large) await sharp(at('frames/1.png')).resize(224, 112).toFile(at(name));
    const sample = await encoded(
      { video: { '<video_00>': large }, conversations: turns('<video_00>Q') },
      'minicpm-v-4_5',
      flags,
    );
    expect(sample.pictures.length).toBeGreaterThan(2);
    expect(sample.imageBounds).toHaveLength(sample.pictures.length);
  });

  it('give a batch of 4.7 three positions a token, also of records without pictures', async () => {
    const sample = await encoded({ video: 'frames', conversations: turns('Q') }, 'minicpm-v-4_7');
    const other = await encoded({ conversations: turns('No pictures.') }, 'minicpm-v-4_7');
    const batch = collate([other, sample]);
    expect(batch.inputs.positionIds.shape).toEqual([3, 1, batch.tokens]);
    const positions = batch.inputs.positionIds.toNumbers();
    const first = other.inputIds.length;
    for (let axis = 0; axis < 3; axis++) {
      const start = axis * batch.tokens;
      expect(positions.slice(start, start + first)).toEqual(Array.from({ length: first }, (_, i) => i));
      const own = sample.positionIds!.subarray(axis * sample.inputIds.length, (axis + 1) * sample.inputIds.length);
      expect(positions.slice(start + first, start + batch.tokens)).toEqual([...own]);
    }
    disposeBatch(batch);
  });

  it('become fewer where the record is too long, and that is said', async () => {
    const record = { video: 'frames', conversations: turns('Q') };
    const whole = await encoded(record, 'minicpm-v-4_6');
    const most = whole.inputIds.length - 10;
    const sample = await encoded(record, 'minicpm-v-4_6', { model_max_length: most });
    expect(sample.inputIds.length).toBeLessThanOrEqual(most);
    expect(sample.notices).toMatchObject([{ kind: 'fewer_frames', message: /^8 pictures became \d, so that/ }]);
    expect(sample.videos![0]!.times[0]).toBe(0);
  });

  it.each([
    ['empty', /the frames of a video in .*empty but received no picture/],
    ['sizes', /frames of one size, 64x48 as the first one, in .* but received 32x48 in .*2\.png/],
  ])('are refused: %s', async (video, message) => {
    expect((await failure(video)).format()).toMatch(message);
  });

  it('are refused by a model without videos, and a thought by one that does not think', async () => {
    expect((await failure('frames', 'minicpm-v-2_6')).format()).toMatch(
      /a model that reads no videos .* 4\.5, 4\.6 or 4\.7/s,
    );
    const thought = { messages: [turns('Q')[0], { ...turns('Q')[1], reasoning_content: 'Hm.' }] };
    await expect(encoded(thought, 'minicpm-v-2_6')).rejects.toThrow(/no thought before an answer for --llm_type qwen/);
  });

  it('are known by their content, wherever they lie', async () => {
    cpSync(at('frames'), at('elsewhere'), { recursive: true });
    const { dataset } = await opened(
      ['frames', 'elsewhere', 'sizes'].map((video) => ({ video, conversations: turns('Q') })),
      'minicpm-v-4_6',
    );
    const [one, two, three] = await Promise.all([0, 1, 2].map((i) => dataset.read(i)));
    expect(contentOf(one!)).toBe(contentOf(two!));
    expect(contentOf(one!)).not.toBe(contentOf(three!));
    expect(filesOf(one!)).toHaveLength(1 + FRAMES);
    expect(stampOf(filesOf(one!), folder)).toBeTypeOf('bigint');
  });
});

describe.skipIf(!hasFfmpeg)('video files', () => {
  it('give the frames themselves, at their rate', async () => {
    const read = (video: string, flags = {}) => encoded({ video, conversations: turns('Q') }, 'minicpm-v-4_6', flags);
    const file = await read('lossless.mkv', { video_fps: 2 });
    const frames = await read('frames');
    expect(file.videos![0]!.times).toEqual([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]);
    expect(file.pictures).toEqual(frames.pictures);
    const everySecond = await read('lossless.mkv');
    expect(everySecond.videos![0]!.times).toEqual([0, 1, 2, 3]);
    expect(everySecond.pictures[1]).toEqual(frames.pictures[2]);
  });

  it('stand in one record with pictures, in the order of the text', async () => {
    const record = { image: 'frames/1.png', video: 'lossless.mkv', conversations: turns('<video>then<image>Q') };
    const sample = await encoded(record, 'minicpm-v-4_6');
    expect(sample.videos).toMatchObject([{ bounds: [0, 4] }]);
    expect(sample.text).toMatch(/<\|video_pad\|><\/image>\nthen\n<image_id>0<\/image_id><image><\|image_pad\|>/);
  });

  it('are named with the cause when they are bad', async () => {
    const whole = readFileSync(at('whole.mp4'));
    writeFileSync(at('cut.mp4'), whole.subarray(0, Math.floor(whole.length * 0.8)));
    writeFileSync(at('page.mp4'), '<!DOCTYPE html><html>Not found</html>');
    writeFileSync(at('nothing.mp4'), '');
    const noise = Buffer.from(whole);
    const data = noise.indexOf('mdat') + 60;
    for (let i = data; i < noise.length; i++) noise[i] = (i * 37) & 255;
    writeFileSync(at('noise.mp4'), noise);
    const causes = [
      ['cut.mp4', /a whole video .* cut off after \d of its 8 frames/],
      ['page.mp4', /a video in .* but received an HTML page/],
      ['nothing.mp4', /an empty file/],
      ['noise.mp4', /a readable video .* damaged at frame \d/],
      ['sound.mp4', /a file without moving pictures/],
      ['frames/1.png', /a picture\./],
    ] as const;
    for (const [video, message] of causes) expect((await failure(video)).message).toMatch(message);
  });

  it('ask nothing of the network, whatever a playlist says', async () => {
    let asked = 0;
    const server = createServer((_, response) => {
      asked++;
      response.writeHead(404).end();
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    const list = [
      '#EXTM3U',
      '#EXT-X-TARGETDURATION:3',
      '#EXTINF:3,',
      `http://127.0.0.1:${port}/a.ts`,
      '#EXT-X-ENDLIST',
    ];
    writeFileSync(at('list.m3u8'), list.join('\n'));
    try {
      const plain = spawn('ffprobe', ['-v', 'quiet', at('list.m3u8'), '-protocol_whitelist', 'file,http,tcp']);
      await once(plain, 'close');
      expect(asked).toBeGreaterThan(0);
      asked = 0;
      expect((await failure('list.m3u8')).message).toMatch(/list\.m3u8/);
      expect(asked).toBe(0);
    } finally {
      server.close();
    }
  });

  it('are looked at before the first step', async () => {
    writeFileSync(at('page.mp4'), '<!DOCTYPE html>');
    const records = ['lossless.mkv', 'page.mp4', 'frames'].map((video) => ({ video, conversations: turns('Q') }));
    const { dataset, encoder } = await opened(records, 'minicpm-v-4_6');
    const skip = { onBadRecord: 'skip', maxBadFraction: 1 } as const;
    const { bad } = await preflight({
      ...{ dataset, encoder: encoder.setup, purpose: 'training', mode: 'quick', threads: 0, memory: null },
      ...{ badRecords: skip, reporter: SILENT },
    });
    expect([...bad.keys()]).toEqual([1]);
    expect(bad.get(1)!.message).toMatch(/a video in .*page\.mp4 but received/);
    await dataset.close();
  });

  it('need ffmpeg, which is named where it is missing', async () => {
    vi.stubEnv('PATH', at('empty'));
    try {
      const error = await failure('whole.mp4');
      expect(error.format()).toMatch(/the program ffprobe to read the video .* none in PATH.*apt-get install ffmpeg/s);
    } finally {
      vi.unstubAllEnvs();
    }
  });
});

it('check-data counts videos and frames; render shows frames with their times', async () => {
  const records = [{ video: 'frames', conversations: turns('Q') }, { conversations: turns('Text.') }];
  const { file, dataset, encoder } = await opened(records, 'minicpm-v-4_7');
  const report = await checkRecords({ paths: [file], encoder: encoder.setup, threads: 0, perRecord: true });
  expect(report).toMatchObject({ errors: [], images: 0, videos: 1, frames: FRAMES, text_only: 1 });
  expect(report.per_record!.images).toEqual([1, 0]);
  expect(formatReport(report, 5, ENGLISH)).toContain('Videos: 1, frames: 8');
  const { json, samples } = await recordJson(dataset, 0, encoder, ['inference']);
  const [{ videos, images }] = json.encodings as [(typeof json.encodings)[number]];
  expect(images).toEqual([]);
  expect(videos[0]).toMatchObject({ name: at('frames'), turn: 0, role: 'user' });
  expect(videos[0]!.frames[3]).toEqual({ time: 3, grid: null, pictures: [3] });
  const info = { name: 'frames', turn: 0, role: 'user', shown: { frames: videos[0]!.frames } };
  const sheet = await sharp(await contactSheet(samples.get('inference')!.pictures, [], [info], 14)).metadata();
  expect(sheet.width).toBeGreaterThan(FRAMES * 64);
  await dataset.close();
});
