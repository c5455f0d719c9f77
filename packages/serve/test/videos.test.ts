/** Videos in requests: the same answers as without a server, and what strangers may not do with them. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { loadModel } from '@minicpm-finetune/minicpm-v';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyCheckpoint, writePicture } from '../../minicpm-v/test/support/tiny.js';
import { VideoReader } from '../src/engine/videos.js';
import { type Serving, serving, workFolder } from './support/serving.js';

const hasFfmpeg = ['ffmpeg', 'ffprobe'].every((program) => spawnSync(program, ['-version']).status === 0);
const { work, base, remove } = workFolder('minicpm-v-4_6');
let here: Serving;

const dataUrl = (file: string, type = 'mp4'): string =>
  `data:video/${type};base64,${readFileSync(join(work, file)).toString('base64')}`;
const ffmpeg = (...words: string[]): void =>
  void execFileSync('ffmpeg', ['-v', 'error', '-y', ...words], { cwd: work });
/** Folders of videos that a server has at this moment. */
const folders = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('minicpm-video-'));

const temporary = process.env.TMPDIR;
beforeAll(async () => {
  process.env.TMPDIR = mkdtempSync(join(work, 'tmp-')); // others' videos are not looked at
  here = await serving(base);
  if (!hasFfmpeg) return;
  mkdirSync(join(work, 'frames'));
  for (let i = 0; i < 6; i++) writePicture(join(work, 'frames', `${i}.bmp`), 96, 64, i);
  ffmpeg('-framerate', '2', '-i', 'frames/%d.bmp', '-c:v', 'mpeg4', 'clip.mp4');
  ffmpeg('-framerate', '2', '-i', 'frames/%d.bmp', '-c:v', 'mpeg2video', '-f', 'mpegts', 'secret.ts');
});
afterAll(async () => {
  await here.close();
  expect(here.errors).toEqual([]);
  if (temporary === undefined) delete process.env.TMPDIR;
  else process.env.TMPDIR = temporary;
  remove();
});

interface Refused {
  readonly status: number;
  readonly error: { message: string; param: string | null; code: string | null };
}

async function ask(url: string, { of = here, signal, type = 'video_url' }: AskOptions = {}): Promise<Refused> {
  const content = [
    { type: 'text', text: 'What moves?' },
    { type, [type]: { url } },
  ];
  const response = await fetch(`${of.server.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ messages: [{ role: 'user', content }], max_tokens: 4, temperature: 0 }),
    ...(signal && { signal }),
  });
  const { error } = (await response.json()) as { error: Refused['error'] };
  return { status: response.status, error };
}

interface AskOptions {
  readonly of?: Serving;
  readonly signal?: AbortSignal;
  readonly type?: string;
}

const PLACE = 'messages[0].content[1]';

describe.skipIf(!hasFfmpeg)('a video', () => {
  it.each(['minicpm-v-4_5', 'minicpm-v-4_6', 'minicpm-v-4_7'] as const)(
    'is answered by %s as without a server, and leaves no file',
    async (version) => {
      const folder = version === 'minicpm-v-4_6' ? base : tinyCheckpoint(work, version);
      const one = await serving(folder);
      try {
        const answer = await one.client.chat.completions.create({
          model: 'tiny',
          max_tokens: 6,
          temperature: 0,
          messages: [
            {
              role: 'user',
              content: [
                { type: 'video_url', video_url: { url: dataUrl('clip.mp4') } } as never,
                { type: 'text', text: 'What moves?' },
              ],
            },
          ],
        });
        using model = await loadModel({ model: folder, dtype: 'float32' });
        const messages = [{ role: 'user' as const, content: [{ video: join(work, 'clip.mp4') }, 'What moves?'] }];
        const prompt = await model.encode(messages);
        expect(prompt.videos![0]!.times.length).toBeGreaterThan(2);
        const [expected] = await model.answer([prompt], { maxNewTokens: 6 });
        expect(answer.choices[0]!.message.content!.trim()).toBe(expected!.text);
        expect(answer.usage!.prompt_tokens).toBe(prompt.inputIds.length);
        expect(folders()).toEqual([]);
      } finally {
        await one.close();
      }
    },
  );

  it('that names files of the server opens none of them', async () => {
    const secret = join(work, 'secret.ts');
    const list = ['#EXTM3U', '#EXT-X-TARGETDURATION:3', '#EXTINF:3,', `file://${secret}`, '#EXT-X-ENDLIST'];
    writeFileSync(join(work, 'list'), list.join('\n'));
    writeFileSync(join(work, 'joined'), `ffconcat version 1.0\nfile ${secret}\n`);
    // it can be read: where it is refused, that is for the sake of the limits
    expect(spawnSync('ffprobe', ['-v', 'error', '-i', join(work, 'list')]).status).toBe(0);
    for (const name of ['list', 'joined']) {
      const { status, error } = await ask(dataUrl(name));
      expect([status, error.param, error.code]).toEqual([400, PLACE, 'invalid_video']);
      expect(error.message).not.toContain('minicpm-video-');
    }
  });

  it('that is none, damaged, too large or too long is refused by its place', async () => {
    const whole = readFileSync(join(work, 'clip.mp4'));
    writeFileSync(join(work, 'cut.mp4'), whole.subarray(0, Math.floor(whole.length * 0.7)));
    writeFileSync(join(work, 'page.mp4'), '<!DOCTYPE html><html>Not found</html>');
    ffmpeg('-f', 'lavfi', '-i', 'color=size=1600x1200:duration=1:rate=1', '-c:v', 'mpeg4', 'large.mp4');
    ffmpeg('-f', 'lavfi', '-i', 'color=size=64x64:duration=120:rate=1', '-c:v', 'mpeg4', 'long.mp4');
    const causes = [
      ['cut.mp4', /cut off|damaged/, 'invalid_video'],
      ['page.mp4', /an HTML page/, 'invalid_video'],
      ['large.mp4', /at most 1000000 pixels/, 'invalid_video'],
      ['long.mp4', /This model's context has 600 tokens/, 'context_length_exceeded'],
    ] as const;
    for (const [name, message, code] of causes) {
      const { status, error } = await ask(dataUrl(name));
      expect(error.message).toMatch(message);
      expect([name, status, error.code]).toEqual([name, 400, code]);
      expect(error.param).toBe(code === 'invalid_video' ? PLACE : 'messages');
    }
    expect(folders()).toEqual([]);
  });
});

describe('a part of type video_url', () => {
  it.each([
    'https://example.com/a.mp4',
    'file:///etc/passwd',
    '/etc/passwd',
    'data:image/png;base64,AAAA',
    'data:video/mp4,AAAA',
    'data:video/mp4;base64,',
    'data:video/mp4;base64,not base64!',
    '',
  ])('of the address %j is refused', async (url) => {
    const { status, error } = await ask(url);
    expect([status, error.param]).toEqual([400, PLACE]);
    expect(error.message).toContain('video_url.url');
  });

  it('is refused by a model without videos, and in a message of another role', async () => {
    const older = await serving(tinyCheckpoint(work, 'minicpm-v-2_6'));
    const { status, error } = await ask('data:video/mp4;base64,AAAA', { of: older });
    expect([status, error.param, error.code]).toEqual([400, PLACE, 'unsupported_parameter']);
    expect(error.message).toContain('MiniCPM-V-2_6 reads no videos');
    await older.close();
    const system = await fetch(`${here.server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({
        messages: [
          { role: 'system', content: [{ type: 'video_url', video_url: { url: 'data:video/mp4;base64,AAAA' } }] },
          { role: 'user', content: 'hi' },
        ],
      }),
    });
    expect([system.status, ((await system.json()) as Refused).error.param]).toEqual([400, 'messages[0].content[0]']);
  });
});

describe.skipIf(process.platform === 'win32')('a program that does not end', () => {
  const isAlive = (pid: number): boolean => {
    try {
      return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
    } catch {
      return false;
    }
  };
  /** Has the work done while ffprobe is a program that writes its number and waits. */
  async function hanging(name: string, work_: (pid: () => Promise<number>) => Promise<void>): Promise<void> {
    const bin = join(work, name);
    mkdirSync(bin);
    const program = join(bin, 'ffprobe');
    writeFileSync(program, `#!/bin/sh\necho $$ > ${bin}/pid\nexec sleep 1000\n`);
    chmodSync(program, 0o755);
    const before = process.env.PATH;
    process.env.PATH = `${bin}${delimiter}${before}`;
    const pid = (): Promise<number> =>
      expect
        .poll(() => readdirSync(bin).includes('pid') && Number(readFileSync(join(bin, 'pid'), 'utf8')))
        .toBeGreaterThan(0)
        .then(() => Number(readFileSync(join(bin, 'pid'), 'utf8')));
    try {
      await work_(pid);
    } finally {
      process.env.PATH = before;
    }
  }

  it('is killed after the time for videos, and the request is refused', async () => {
    const impatient = await serving(base, { engine: { videoTimeout: 3 } });
    await hanging('slow', async (pid) => {
      const asked = ask('data:video/mp4;base64,AAAA', { of: impatient });
      const number = await pid();
      const { status, error } = await asked;
      expect([status, error.param, error.code]).toEqual([400, PLACE, 'invalid_video']);
      expect(error.message).toContain('within 3 seconds');
      await expect.poll(() => isAlive(number)).toBe(false);
    });
    await impatient.close();
    expect(folders()).toEqual([]);
  });

  it('is killed when the client goes', async () => {
    await hanging('gone', async (pid) => {
      const client = new AbortController();
      const asked = ask('data:video/mp4;base64,AAAA', { signal: client.signal }).catch(() => 'gone');
      const number = await pid();
      expect(isAlive(number)).toBe(true);
      client.abort();
      expect(await asked).toBe('gone');
      await expect.poll(() => isAlive(number)).toBe(false);
      await expect.poll(folders).toEqual([]);
    });
  });
});

it('videos that find no room for their files take no place from later ones', async () => {
  const reader = new VideoReader(60);
  const video = { kind: 'video', url: 'data:video/mp4;base64,AAAA', place: 'here' } as const;
  const { signal } = new AbortController();
  const before = process.env.TMPDIR;
  process.env.TMPDIR = join(work, 'nowhere');
  try {
    for (let i = 0; i < 3; i++)
      await expect(reader.with([video], signal, async () => 'read')).rejects.toThrow('no such file or directory');
  } finally {
    process.env.TMPDIR = before;
  }
  expect(await reader.with([video], signal, async ({ pathOf }) => readFileSync(pathOf(video)).length)).toBe(3);
  expect(folders()).toEqual([]);
});
