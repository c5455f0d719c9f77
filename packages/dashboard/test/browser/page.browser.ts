import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { runningProcess } from '@minicpm-finetune/run';
import type { Page } from 'playwright-core';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { liveRun, RecordedRun } from '../support/recorded-runs.mjs';
import { type Ids, screensOf } from './screens.js';
import { type Bench, findings, openPage, runId, settled, show, startBench, startServer } from './support.js';

let bench: Bench;
let live: RecordedRun;
let ids: Ids;
let page: Page;

beforeAll(async () => {
  bench = await startBench(async (root) => {
    live = liveRun(join(root, 'live'), { totalSteps: 400, changes: { run_name: 'live' } });
    live.steps(150);
    await live.evaluate();
    live.checkpoint();
    const lines = Array.from(
      { length: 30 },
      (_, index) => `step ${5 * (index + 1)}/400, loss ${(2.5 * Math.exp(-index / 12) + 0.4).toFixed(4)}, lr 1.00e-5`,
    );
    writeFileSync(join(root, 'live', 'console.log'), `${lines.join('\n')}\n`);
    new RecordedRun(join(root, 'long'))
      .start({ changes: { model_name_or_path: 'openbmb/MiniCPM-V-4' }, totalSteps: 100_000 })
      .steps(100_000, { every: 1, fields: () => ({ memory: { rss: 4_200_000_000, tensors: 321 } }) })
      .end();
  });
  page = await openPage(bench);
  const names = ['digits', 'invoices', 'live', 'killed', 'preference'] as const;
  const pairs = await Promise.all(names.map(async (name) => [name, await runId(page, name)] as const));
  ids = Object.fromEntries(pairs) as Ids;
});
afterAll(() => bench?.close());

const text = (selector: string): Promise<string> => page.locator(selector).first().innerText();

describe('the token', () => {
  test('goes out of the address, and the page asks for it without a session', async () => {
    expect(page.url()).not.toContain('token');
    const context = await bench.browser.newContext();
    const stranger = await context.newPage();
    await stranger.goto(`http://127.0.0.1:${bench.dashboard.port}/`);
    await stranger.getByRole('heading', { name: 'This page needs its token' }).waitFor();
    await stranger.getByLabel('Token').fill('wrong');
    await stranger.keyboard.press('Enter');
    await stranger.getByRole('alert').waitFor();
    await stranger.getByLabel('Token').fill(bench.dashboard.url);
    await stranger.keyboard.press('Enter');
    await stranger.getByRole('heading', { name: 'Runs', level: 1 }).waitFor();
    await show(stranger, 'machine');
    await stranger.evaluate(() => {
      location.hash = `#token=${'x'.repeat(43)}`; // an old address, opened in a browser that is signed in
    });
    await stranger.getByRole('heading', { name: 'Runs', level: 1 }).waitFor();
    expect(stranger.url()).not.toContain('token');
    await show(stranger, 'runs/none');
    expect(await stranger.locator('h1').count()).toBe(1);
    await context.close();
  });
});

describe('a run that goes', () => {
  test('shows new points without a reload, also after the server was away', async () => {
    await show(page, `runs/${ids.live}/charts`);
    await page.evaluate(() => {
      (window as unknown as { stayed: boolean }).stayed = true;
    });
    const table = page.getByRole('region', { name: 'Loss' });
    await table.getByRole('button', { name: 'Table' }).click();
    const last = table.locator('tbody tr:last-child td').first();
    expect(await last.innerText()).toBe('150');
    live.steps(170);
    await expect.poll(() => last.innerText()).toBe('170');
    await expect.poll(() => text('main .line')).toContain('Step 170 of 400');

    const { port } = bench.dashboard;
    await bench.dashboard.close();
    await page.getByText('Reconnecting').first().waitFor();
    await page.getByRole('button', { name: 'Stop and save' }).click();
    await page.getByText('The server of the page did not answer.', { exact: false }).waitFor();
    live.steps(190);
    bench.dashboard = await startServer(bench.root, port);
    await page.getByText('Live', { exact: true }).waitFor();
    await expect.poll(() => last.innerText()).toBe('190');
    expect(await page.evaluate(() => (window as unknown as { stayed?: boolean }).stayed)).toBe(true);
  });

  test('is asked to stop by a STOP file, and says so', async () => {
    await show(page, `runs/${ids.live}`);
    await page.getByRole('button', { name: 'Stop and save' }).click();
    await page.getByText('Stopping').first().waitFor();
    expect(existsSync(join(live.folder, 'STOP'))).toBe(true);
    expect(await page.getByRole('button', { name: 'Stop and save' }).isDisabled()).toBe(true);
  });
});

test('the overview says what the trainer said of flags and numbers before it began', async () => {
  await show(page, `runs/${ids.digits}`);
  await page.getByText('eval_steps has no effect: eval_strategy is no.', { exact: true }).waitFor();
  await page.getByText(/^steps per epoch = ceil/).waitFor();
});

test('a run whose process is killed offers at once what can be done then', async () => {
  const process = spawn('sleep', ['1000']);
  const { start } = runningProcess(process.pid!)!;
  const folder = join(bench.root, 'mortal');
  new RecordedRun(folder)
    .now()
    .start({ changes: {}, totalSteps: 400, process: { pid: process.pid!, start: start! } })
    .steps(20)
    .checkpoint();
  await expect.poll(() => runId(page, 'mortal').catch(() => '')).not.toBe('');
  await show(page, `runs/${await runId(page, 'mortal')}`);
  await page.getByRole('button', { name: 'Stop and save' }).waitFor();
  process.kill('SIGKILL');
  await page.getByRole('button', { name: 'Resume from step 20' }).waitFor();
  expect(await page.getByRole('button', { name: 'Stop and save' }).count()).toBe(0);
  rmSync(folder, { recursive: true });
});

test('tabs that nobody sees leave room for the one that is seen', async () => {
  const tabs: Page[] = [];
  for (let i = 0; i < 7; i++) {
    const tab = await page.context().newPage(); // one more than a browser has connections to a server
    await tab.addInitScript(() => {
      Object.defineProperty(document, 'hidden', { get: () => !('seen' in globalThis) });
    });
    await tab.goto(`http://127.0.0.1:${bench.dashboard.port}/#/runs`);
    await tab.getByRole('heading', { name: 'Runs', level: 1 }).waitFor();
    tabs.push(tab);
  }
  const last = tabs.at(-1)!;
  await last.getByText('Connecting').waitFor();
  await last.evaluate(() => {
    Object.assign(globalThis, { seen: true });
    document.dispatchEvent(new Event('visibilitychange'));
  });
  await last.getByText('Live', { exact: true }).waitFor();
  for (const tab of tabs) await tab.close();
});

describe('every screen', () => {
  test.each([
    { language: 'en', theme: 'light' },
    { language: 'zh', theme: 'dark' },
  ] as const)('has no serious finding of axe and no missing text: $language, $theme', async ({ language, theme }) => {
    const other = await openPage(bench, 'runs', { language, theme });
    const wrong: Record<string, unknown> = {};
    for (const { name, address } of screensOf(ids)) {
      await show(other, address);
      const found = await findings(other);
      // The other theme has other colours; nothing else differs.
      const look = theme === 'light' ? 'dark' : 'light';
      await other.getByLabel(language === 'en' ? 'Theme' : '主题').selectOption(look);
      await settled(other);
      found.push(...(await findings(other, ['color-contrast'])).map((one) => `${look}: ${one}`));
      await other.getByLabel(language === 'en' ? 'Theme' : '主题').selectOption(theme);
      const shown = await other.locator('body').innerText();
      if (/undefined|\[object|function|=>/.test(shown)) found.push('a text is missing');
      if (found.length > 0) wrong[name] = found;
      expect(await other.locator('h1').count(), name).toBe(1);
    }
    expect(await other.evaluate(() => document.documentElement.lang)).toBe(language === 'en' ? 'en' : 'zh-CN');
    expect(wrong).toEqual({});
    await other.context().close();
  });

  test('fits a phone of 360 pixels', async () => {
    const phone = await openPage(bench, 'runs', { width: 360, height: 740 });
    for (const { name, address } of screensOf(ids)) {
      await show(phone, address);
      expect(await phone.evaluate(() => document.documentElement.scrollWidth), name).toBeLessThanOrEqual(360);
    }
    await phone.context().close();
  });
});

describe('by keyboard', () => {
  test('the skip link, the list and its dialogs can be used', async () => {
    await show(page, 'runs');
    await page.reload(); // so that the keyboard begins at the top
    await settled(page);
    await page.keyboard.press('Tab');
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe('Skip to the content');
    await page.keyboard.press('Enter');
    expect(await page.evaluate(() => document.activeElement?.id)).toBe('main');

    await page.getByRole('button', { name: 'Loss', exact: true }).focus();
    await page.keyboard.press('Enter');
    expect(await page.locator('th[aria-sort=descending]').innerText()).toContain('Loss');

    const edit = page.getByRole('button', { name: 'Edit digits' });
    await edit.focus();
    await page.keyboard.press('Enter');
    await page.getByLabel('Tags, separated by commas').fill('good, small');
    await page.keyboard.press('Enter');
    await page.getByText('small', { exact: true }).waitFor();
    expect(await edit.evaluate((button) => button === document.activeElement)).toBe(true);
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    expect(await edit.evaluate((button) => button === document.activeElement)).toBe(true);

    await page.getByRole('searchbox').fill('r=64 state=killed');
    await expect.poll(() => page.locator('tbody tr').count()).toBe(1);
    await page.getByRole('searchbox').fill('');
  });

  test('samples move by arrow keys, play by space, and go by j and k', async () => {
    await show(page, `runs/${ids.digits}/samples`);
    const step = page.locator('output');
    await expect.poll(() => step.innerText()).toContain('step 240');
    await page.keyboard.press('ArrowLeft');
    await page.keyboard.press('ArrowLeft');
    await expect.poll(() => step.innerText()).toContain('step 120');
    await page.locator('del').first().waitFor();
    expect(await page.locator('ins').count()).toBeGreaterThan(0);
    await page.keyboard.press(' ');
    await expect.poll(() => step.innerText()).toContain('step 240');
    await page.keyboard.press('j');
    await page.keyboard.press('j');
    expect(await page.evaluate(() => document.activeElement?.textContent)).toContain('record-1');
    await page.keyboard.press('k');
    expect(await page.evaluate(() => document.activeElement?.textContent)).toContain('record-0');
  });

  test('the log is searched', async () => {
    await show(page, `runs/${ids.live}/log`);
    await page.keyboard.press('/');
    await page.keyboard.type('LR 1');
    await page.getByText('1 of 30', { exact: true }).waitFor();
    expect(await page.getByLabel('Follow').isChecked()).toBe(false);
    await page.keyboard.press('Shift+Enter');
    await page.getByText('30 of 30', { exact: true }).waitFor();
    await page.keyboard.press('Enter');
    await page.keyboard.press('Enter');
    await page.getByText('2 of 30', { exact: true }).waitFor();
    expect(await page.locator('mark').count()).toBe(30);
    expect(await page.locator('mark.here').count()).toBe(1);
    expect(await findings(page)).toEqual([]);
    await page.keyboard.type('no');
    await page.getByText('Not found.').waitFor();
    await page.keyboard.press('Escape');
    expect(await page.locator('mark').count()).toBe(0);
  });

  test('charts are zoomed by numbers, and read as sentences and tables', async () => {
    await show(page, `runs/${ids.digits}/charts`);
    await page.getByLabel('From').fill('100');
    await page.keyboard.press('Enter');
    const loss = page.getByRole('region', { name: 'Loss' });
    await loss.getByRole('button', { name: 'Table' }).click();
    await expect.poll(() => loss.locator('tbody tr:first-child td').first().innerText()).toBe('100');
    expect(await loss.locator('p').first().innerText()).toMatch(/Training loss from [\d.]+ to [\d.]+ at step 240/);
    await page.getByRole('button', { name: 'Whole range' }).first().click();
    await expect.poll(() => loss.locator('tbody tr:first-child td').first().innerText()).toBe('5');
  });
});

test('two runs are selected and compared', async () => {
  await show(page, 'runs');
  await page.getByLabel('Select digits').check();
  await page.getByLabel('Select invoices').check();
  await page.getByRole('button', { name: 'Compare 2 runs' }).click();
  await page.getByRole('heading', { name: 'Configuration that differs' }).waitFor();
  await page.getByText('--lora_r', { exact: true }).waitFor();
  await page.getByLabel('Baseline').selectOption('digits');
  await page.getByText('digits (Baseline)').waitFor();
});

test('a run is duplicated into the form, and its command has the same flags', async () => {
  await show(page, `runs/${ids.invoices}`);
  await page.getByRole('link', { name: 'Duplicate as new run' }).click();
  const rank = page.getByLabel(/^\s*--lora_r\b/); // the label says, too, that it is changed, as soon as that is known
  await rank.waitFor();
  await expect.poll(() => rank.inputValue()).toBe('16');
  await expect.poll(() => text('main')).toContain('--lora_alpha=32');
});

test('100 000 steps are drawn', async () => {
  const id = await runId(page, 'long');
  const draw = (): Promise<number> =>
    page.evaluate(async (hash) => {
      location.hash = '#/runs';
      await new Promise((resolve) => setTimeout(resolve, 300));
      const started = performance.now();
      location.hash = hash;
      while (document.querySelectorAll('canvas').length < 10) await new Promise(requestAnimationFrame);
      await new Promise(requestAnimationFrame);
      return performance.now() - started;
    }, `#/runs/${id}/charts`);
  const times = [await draw(), await draw(), await draw()];
  console.log(`100 000 steps, all charts: ${times.map((time) => time.toFixed(0)).join(', ')} ms`);
  // The aim is 300 ms; a busy machine of the tests may take ten times as long.
  expect(Math.min(...times)).toBeLessThan(3000);
});

/** Saves what a page shows, at most so many pixels high. */
async function save(of: Page, name: string, most = 1700): Promise<void> {
  // As high as its content, so that pictures that load when they are seen do.
  const { width, height } = of.viewportSize()!;
  await of.setViewportSize({
    width,
    height: Math.min(most, await of.evaluate(() => document.documentElement.scrollHeight)),
  });
  await of.waitForFunction(() => [...document.images].every(({ complete }) => complete));
  await of.waitForFunction(() => !document.querySelector('.live.shown'));
  await settled(of);
  const picture = await of.screenshot();
  await of.setViewportSize({ width, height });
  await sharp(picture)
    .webp({ quality: 82, effort: 6 })
    .toFile(join(process.env.SCREENSHOTS!, `${name}.webp`));
}

test.runIf(process.env.SCREENSHOTS)('screenshots', async () => {
  mkdirSync(process.env.SCREENSHOTS!, { recursive: true });
  rmSync(join(live.folder, 'STOP'));
  live.steps(195);
  await page.evaluate(
    (id) =>
      fetch(`/api/runs/${id}/archive`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: '{"archived":true}',
      }),
    await runId(page, 'long'),
  );
  await page.reload();
  for (const { name, address } of screensOf(ids).filter(({ address }) => /^(runs|compare)/.test(address))) {
    await show(page, address);
    await save(page, name);
  }
  const chinese = await openPage(bench, `runs/${ids.digits}/samples`, { language: 'zh', theme: 'dark' });
  await chinese.keyboard.press('ArrowLeft');
  await settled(chinese);
  await save(chinese, 'samples-zh-dark');
  await chinese.context().close();
  const phone = await openPage(bench, `runs/${ids.digits}`, { width: 360, height: 740 });
  await save(phone, 'phone');
  await phone.context().close();
});

test('no request left the machine, and neither policy nor script was broken', () => {
  expect(bench.offences).toEqual([]);
});
