/** Videos on the screens Data, Samples and Chat, over a tiny 4.6 that trains and answers for real. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { tinyCheckpoint } from '../../../minicpm-v/test/support/tiny.js';
import { command } from '../support/command-line.js';
import { type Bench, findings, openPage, runId, settled, show, startBench } from './support.js';

const hasFfmpeg = ['ffmpeg', 'ffprobe'].every((program) => spawnSync(program, ['-version']).status === 0);
const work = mkdtempSync(join(tmpdir(), 'page-videos-'));
const FRAMES = 6;
let bench: Bench;
let page: Page;
let model: string;
let older: string;

/** A square that moves over a coloured ground. */
const frame = (i: number): Promise<unknown> => {
  const square = { create: { width: 40, height: 40, channels: 3 as const, background: '#f0c040' } };
  return sharp({ create: { width: 160, height: 120, channels: 3, background: '#3060a0' } })
    .composite([{ input: square, left: 5 + i * 20, top: 40 }])
    .png()
    .toFile(join(work, 'clip', `${i}.png`));
};

beforeAll(async () => {
  mkdirSync(join(work, 'clip'));
  for (let i = 0; i < FRAMES; i++) await frame(i);
  if (hasFfmpeg)
    execFileSync('ffmpeg', ['-v', 'error', '-framerate', '2', '-i', 'clip/%d.png', '-c:v', 'mpeg4', 'clip.mp4'], {
      cwd: work,
    });
  const turns = [
    { role: 'user', content: '<video>Where does the square go?' },
    { role: 'assistant', content: 'To the right.' },
  ];
  writeFileSync(join(work, 'data.json'), JSON.stringify([{ id: 'moving', video: 'clip', conversations: turns }]));
  model = tinyCheckpoint(work, 'minicpm-v-4_6');
  older = tinyCheckpoint(work, 'minicpm-v-2_6');
  bench = await startBench(async (root) => {
    const words = [
      ...['train', `--model_name_or_path=${model}`, `--data_path=${join(work, 'data.json')}`, '--use_lora=true'],
      ...['--tune_vision=false', '--model_max_length=2048', '--max_steps=2', '--threads=1', '--video_fps=2'],
      ...[
        `--eval_data_path=${join(work, 'data.json')}`,
        '--eval_strategy=steps',
        '--eval_steps=1',
        '--eval_generate=1',
      ],
      `--output_dir=${join(root, 'moving')}`,
    ];
    const { code, stderr } = await command(words, work);
    if (code !== 0) throw new Error(stderr);
  });
  page = await openPage(bench);
});
afterAll(async () => {
  await bench?.close();
  rmSync(work, { recursive: true, force: true });
  expect(bench?.offences).toEqual([]);
});

/** Findings of axe, and the width of a phone; a picture of both for whoever wants to look. */
async function sound(name: string, of: Page = page): Promise<void> {
  await of.waitForFunction(() =>
    [...document.images].every(({ complete, naturalWidth }) => complete && naturalWidth > 0),
  );
  expect(await findings(of)).toEqual([]);
  const { width, height } = of.viewportSize()!;
  await picture(name, of);
  await of.setViewportSize({ width: 360, height: 740 });
  await settled(of);
  expect(await of.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(360);
  await picture(`${name}-phone`, of);
  await of.setViewportSize({ width, height });
}

async function picture(name: string, of: Page): Promise<void> {
  const folder = process.env.LOOK;
  if (folder) await of.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
}

describe('a video', () => {
  test('is a strip of frames with times in the data', async () => {
    await show(page, 'data');
    await page.getByLabel('As in a run').selectOption({ label: 'moving' });
    await page.getByText('--video_fps 2').waitFor();
    await page.getByRole('button', { name: 'Open and check' }).click();
    await page.getByText('Videos: 1. Frames of them that the model sees: 6.').waitFor();
    await page.getByText('▶ 1 video').waitFor();
    await page.getByAltText('First frame of video 0 of record 0').waitFor();
    await sound('data-video');
    await page.locator('section ol > li a').click();
    await page.getByRole('heading', { name: 'Videos', exact: true }).waitFor();
    await expect.poll(() => page.locator('.video img').count()).toBe(FRAMES);
    const times = await page.locator('.video li').allInnerTexts();
    expect(times.map((text) => Number.parseFloat(text))).toEqual([0, 0.5, 1, 1.5, 2, 2.5]);
    await sound('record-video');
    const address = new URL(page.url()).hash.slice(2);
    const chinese = await openPage(bench, address, { language: 'zh', theme: 'dark' });
    await chinese.getByRole('heading', { name: '视频', exact: true }).waitFor();
    await sound('record-video-zh-dark', chinese);
    await chinese.context().close();
  });

  test('is a strip of frames with times beside the answers of a run', async () => {
    const address = `runs/${await runId(page, 'moving')}`;
    await show(page, `${address}/samples`);
    await page.getByText('Video 1 of record moving: the 6 frames that the model sees.').waitFor();
    await expect.poll(() => page.locator('figure img').count()).toBe(FRAMES);
    await sound('samples-video');
    await page.getByRole('button', { name: 'Enlarge Video 1 of record moving at 1.00 s' }).click();
    await page.getByText('160 × 120. A small copy of the frame.').waitFor();
    await page.keyboard.press('Escape');
    const chinese = await openPage(bench, `${address}/samples`, { language: 'zh', theme: 'dark' });
    await chinese.getByText('模型看到的 6 帧').waitFor();
    await sound('samples-video-zh-dark', chinese);
    await chinese.context().close();
    await show(page, address);
    await page.getByText(/Reading the data .* s, Loading the weights .* s/).waitFor();
    await sound('overview-startup');
  });

  test.skipIf(!hasFfmpeg)('is attached to a question, and refused by name for a model that reads none', async () => {
    const load = async (side: 0 | 1, folder: string): Promise<void> => {
      const form = page.locator('section form').nth(side);
      await form.getByLabel('Load').first().selectOption({ label: 'A model by folder or name' });
      await form.getByLabel('Folder or name of a model').fill(folder);
      await form.getByRole('button', { name: 'Load' }).click();
      await expect.poll(() => page.locator('td.ready').count(), { timeout: 60_000 }).toBe(side + 1);
    };
    await show(page, 'chat');
    await load(0, model);
    await page.locator('input[type=file]').setInputFiles(join(work, 'clip.mp4'));
    await page.getByText(/^▶ Video 1: clip\.mp4, /).waitFor();
    await page.locator('summary').click();
    await page.getByLabel('max_completion_tokens').fill('8');
    await page.getByLabel('Question', { exact: true }).fill('Where does it go?');
    await sound('chat-video');
    await page.keyboard.press('Enter');
    await expect.poll(() => page.locator('.answer[aria-busy=false]').count(), { timeout: 60_000 }).toBe(1);
    expect(await page.locator('.answer').innerText()).toMatch(/\d+ prompt tokens/);
    await sound('chat-video-answered');
    await page.getByLabel('Ask two models side by side').check();
    await load(1, older);
    await page.locator('input[type=file]').setInputFiles(join(work, 'clip.mp4'));
    await page.getByText(/^clip\.mp4 is a video, and .*minicpm-v-2_6.* reads no videos\.$/).waitFor();
    await sound('chat-video-refused');
    const chinese = await openPage(bench, 'chat', { language: 'zh', theme: 'dark' });
    await chinese.getByText('添加图片或视频').waitFor();
    await sound('chat-video-zh-dark', chinese);
    await chinese.context().close();
  });
});
