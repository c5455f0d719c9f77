/** The screens Data, New run, Chat and Machine in a browser, over a tiny model that trains and answers for real. */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Locator, Page } from 'playwright-core';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type MadeData, makeData } from '../../../finetune/test/support/made-data.js';
import { makePlace, type Place } from '../../../finetune/test/support/run-place.js';
import { command } from '../support/command-line.js';
import { type Bench, findings, openPage, runId, settled, show, startBench } from './support.js';

let bench: Bench;
let place: Place;
let made: MadeData;
let page: Page;
let picture: string;

const turn = (role: string, content: string) => ({ role, content });
beforeAll(async () => {
  place = makePlace(16);
  made = await makeData(
    24,
    new Map<number, Record<string, unknown>>([
      [2, { image: 'images/gone.jpg', conversations: [turn('user', '<image>\nQ'), turn('assistant', 'A')] }],
      [4, { conversations: [turn('user', 'Count.'), turn('assistant', 'one two three '.repeat(60))] }],
      [
        5,
        {
          image: { '<image_00>': 'images/3.jpg', '<image_01>': 'images/1.jpg' },
          conversations: [
            turn('user', 'Is <image_00> like <image_01>?'),
            turn('assistant', 'No.'),
            turn('user', 'Sure?'),
            turn('assistant', 'Yes.'),
          ],
        },
      ],
    ]),
  );
  picture = join(made.folder, 'images', '3.jpg');
  bench = await startBench(async (root) => {
    const words = [
      ...['train', `--model_name_or_path=${place.model}`, `--data_path=${place.data}`, '--use_lora=true'],
      ...['--tune_vision=false', '--model_max_length=256', '--max_steps=4', '--save_steps=2', '--learning_rate=0.01'],
      ...['--per_device_train_batch_size=2', '--threads=1', `--output_dir=${join(root, 'trained')}`],
    ];
    const { code, stderr } = await command(words, place.folder);
    if (code !== 0) throw new Error(stderr);
  });
  page = await openPage(bench);
});
afterAll(() => bench?.close());

const main = (): Locator => page.locator('main');
/** Findings of axe, and of 360 pixels, on what is shown. */
async function sound(of: Page = page): Promise<void> {
  expect(await findings(of)).toEqual([]);
  const { width, height } = of.viewportSize()!;
  await of.setViewportSize({ width: 360, height: 740 });
  await settled(of);
  expect(await of.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(360);
  await of.setViewportSize({ width, height });
  const text = await of.locator('body').innerText();
  expect(text).not.toMatch(/undefined|\[object|=>/);
}

async function picturesLoaded(of: Page = page): Promise<void> {
  await of.waitForFunction(() =>
    [...document.images].every(({ complete, naturalWidth }) => complete && naturalWidth > 0),
  );
}

async function save(name: string, of: Page = page): Promise<void> {
  const folder = process.env.SCREENSHOTS;
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  const { width, height } = of.viewportSize()!;
  await of.setViewportSize({
    width,
    height: Math.min(2600, await of.evaluate(() => document.documentElement.scrollHeight)),
  });
  await of.evaluate(() => scrollTo(0, 0));
  await settled(of);
  await picturesLoaded(of);
  await of.waitForFunction(() => !document.querySelector('.live.shown'));
  const shot = await of.screenshot();
  await of.setViewportSize({ width, height });
  await sharp(shot)
    .webp({ quality: 82, effort: 6 })
    .toFile(join(folder, `${name}.webp`));
}

describe('data', () => {
  test('are opened, checked, and filtered; a slider shows what is cut', async () => {
    await show(page, 'data');
    await page.getByRole('button', { name: 'Open and check' }).click();
    await page.getByText('Write the path of at least one file.').waitFor();
    await page.getByLabel('Data files').fill(`${made.file}\n`);
    await page.getByLabel('Model', { exact: true }).fill(place.model);
    await page.getByLabel('model_max_length').fill('200');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Tokens per record' }).waitFor();
    await page.getByText('Errors: 1 · Warnings: 1').waitFor();
    await page.getByText(/^1 of 23 records \(4\.3%\) are longer/).waitFor();
    await picturesLoaded();
    await sound();
    await save('data');
    await page.locator('input[type=range]').focus();
    await page.keyboard.press('Home');
    await page.getByText(/([2-9]|1\d) of 23 records .* are longer/).waitFor();
    expect(new URL(page.url()).hash).toContain('max=64');
    await page.getByRole('button', { name: /^Suggested/ }).click();
    await page.getByText(/^[01] of 23 records .* are longer/).waitFor();
    await page.getByRole('spinbutton', { name: 'model_max_length' }).fill('200');
    await page.keyboard.press('Enter');
    await page.getByText(/^1 of 23 records/).waitFor();
    await page.getByRole('button', { name: 'Errors', exact: true }).click();
    await expect.poll(() => page.locator('section ol > li').count()).toBe(1);
    await page.getByRole('button', { name: 'Text only' }).click();
    await expect.poll(() => page.locator('section ol > li').count()).toBe(3);
    await page.getByRole('button', { name: 'All', exact: true }).click();
  });

  test('are shown record by record, with slices, tokens, labels, ids and both encodings', async () => {
    await page.getByLabel('Record number').fill('5');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Record 5', level: 1 }).waitFor();
    await page.getByText('Slice 4', { exact: false }).first().waitFor();
    await picturesLoaded();
    const list = page.getByRole('listbox');
    expect(await list.locator('.supervised').count()).toBeGreaterThan(3);
    expect(await list.locator('.supervised').first().innerText()).toMatch(/^N/);
    expect(await list.locator('.features').count()).toBeGreaterThan(5);
    await list.focus();
    await page.keyboard.press('End');
    await page.keyboard.press('ArrowLeft');
    await page.keyboard.press('ArrowLeft');
    await page.getByText(/learns to produce "<\|im_end\|>" \(\d+\) next/).waitFor();
    expect(await list.locator('.next').count()).toBe(1);
    await list.locator('[data-at="0"]').hover();
    await page.getByText('none: nothing is learned after it').waitFor();
    await page.getByLabel('Ids').check();
    await sound();
    await page.getByLabel('Ids').uncheck();
    await save('record');
    await page.getByRole('button', { name: 'both', exact: true }).click();
    await expect.poll(() => page.getByRole('listbox').count()).toBe(2);
    await sound();
    await page.keyboard.press('k');
    await page.getByRole('heading', { name: 'Record 4', level: 1 }).waitFor();
    await page
      .getByText(/cut off$/)
      .first()
      .waitFor();
    expect(await page.locator('.token.cut').count()).toBeGreaterThan(10);
    expect(await page.getByText('its end is cut off.').count()).toBe(2); // once for each encoding
    await page.keyboard.press('j');
    await page.getByRole('heading', { name: 'Record 5', level: 1 }).waitFor();
  });

  test('speak Chinese', async () => {
    const address = new URL(page.url()).hash.slice(2);
    const chinese = await openPage(bench, address, { language: 'zh', theme: 'dark' });
    await chinese.getByRole('heading', { name: '词元' }).waitFor();
    await picturesLoaded(chinese);
    await sound(chinese);
    await show(chinese, address.replace(/\/\d+(\?.*)?$/, ''));
    await chinese.getByText('错误：1').waitFor();
    await sound(chinese);
    await save('data-zh-dark', chinese);
    await chinese.context().close();
  });
});

describe('a new run', () => {
  test('is a form with mistakes beside their fields, and a command line that follows', async () => {
    await show(page, `new-run?from=${await runId(page, 'trained')}`);
    const field = (name: string): Locator => page.locator(`#flag-${name}`);
    await expect.poll(() => field('learning_rate').inputValue()).toBe('0.01');
    await field('lora_r').fill('many');
    await page.getByText('Expected an integer of at least 1 for --lora_r but received "many".').waitFor();
    expect(await page.getByRole('button', { name: 'Start', exact: true }).isDisabled()).toBe(true);
    await sound();
    await field('lora_r').fill('8');
    await field('save_strategy').selectOption('no');
    await expect.poll(() => main().locator('pre').first().innerText()).toContain('--save_strategy=no');
    await field('save_strategy').selectOption('');
    await expect.poll(() => main().locator('pre').first().innerText()).not.toContain('--save_strategy');
    expect(await field('save_steps').isVisible()).toBe(true); // its group stays open for whoever writes in it
    await field('output_dir').fill(join(bench.root, 'from the page'));
    await field('max_steps').fill('40');
    await expect.poll(() => main().locator('pre').first().innerText()).toContain('--lora_r=8');
    await page.getByRole('button', { name: 'Check without training' }).click();
    await page.getByText('Everything that a start checks is in order.').waitFor();
    await page.getByText('LoRA scale = 64 / 8 = 8').waitFor();
    await sound();
    await save('new-run');
    await page.getByLabel('Find a flag').fill('quantized');
    await expect.poll(() => page.locator('.flag').count()).toBeLessThan(5);
    await page.getByLabel('Find a flag').fill('');
  });

  test('takes a recipe, and says what the form has no field for', async () => {
    const before = await page.locator('#flag-output_dir').inputValue();
    await page.getByRole('button', { name: 'Paste a recipe' }).click();
    await page.getByLabel('A recipe in YAML or JSON').fill('lora_r: 4\nbf16: true\ndeepspeed: x.json\n');
    await page.getByRole('button', { name: 'Take its values' }).click();
    await page.getByText(/no field for these keys of the recipe: deepspeed/).waitFor();
    expect(await page.locator('#flag-dtype').inputValue()).toBe('bfloat16');
    await page.getByText('Still to be given: --model_name_or_path').waitFor();
    await show(page, 'runs');
    await show(page, `new-run?from=${await runId(page, 'trained')}`);
    await expect.poll(() => page.locator('#flag-learning_rate').inputValue()).toBe('0.01');
    await page.locator('#flag-output_dir').fill(before);
    await page.locator('#flag-max_steps').fill('40');
  });

  test('is started, and is there', async () => {
    await page.getByRole('button', { name: 'Start', exact: true }).click();
    await page.waitForFunction(() => /^#\/runs\/./.test(location.hash));
    await expect.poll(() => main().innerText(), { timeout: 60_000 }).toMatch(/Finished/i);
    expect(existsSync(join(bench.root, 'from the page', 'adapter_config.json'))).toBe(true);
  });
});

test('a checkpoint is evaluated and exported', async () => {
  const id = await runId(page, 'trained');
  await show(page, `runs/${id}/checkpoints`);
  await page.getByRole('button', { name: 'Evaluate…' }).first().click();
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('button', { name: 'Start' }).click();
  await dialog.getByRole('alert').getByText('--data_path').waitFor();
  await dialog.getByLabel('Data files').fill(place.data);
  await sound();
  await dialog.getByRole('button', { name: 'Start' }).click();
  await dialog.waitFor({ state: 'detached' });
  const work = page.getByRole('region', { name: 'Evaluated and exported' });
  await work.getByText(/equal the reference/).waitFor({ timeout: 60_000 });
  await page.getByRole('button', { name: 'Export…' }).last().click();
  await dialog.getByLabel('Form').selectOption('gguf');
  await dialog.getByLabel('Type of the weights').selectOption('q8_0');
  await dialog.getByLabel('Form').selectOption('merge');
  expect(await dialog.getByLabel('Folder').inputValue()).toMatch(/trained-result-merged$/);
  await dialog.getByRole('button', { name: 'Start' }).click();
  await work.getByText(/^Merge, the result/).waitFor();
  await expect.poll(() => work.getByText(/^done/).count(), { timeout: 60_000 }).toBe(2);
  await sound();
});

describe('the chat', () => {
  const pick = async (side: 0 | 1, part: 'result' | 'base'): Promise<void> => {
    const form = page.locator('section form').nth(side);
    await form.getByLabel('Load').first().selectOption({ label: 'trained' });
    await form.getByLabel('Checkpoint').selectOption(part);
    await form.getByRole('button', { name: 'Load' }).click();
  };

  test('asks two models side by side, with pictures that are chosen, pasted and dropped', async () => {
    await show(page, 'chat');
    await page.getByLabel('Ask two models side by side').check();
    await pick(0, 'result');
    await pick(1, 'base');
    await expect.poll(() => page.locator('td.ready').count(), { timeout: 60_000 }).toBe(2);
    await page.locator('input[type=file]').setInputFiles(picture);
    const bytes = [
      ...(await sharp({ create: { width: 8, height: 8, channels: 3, background: 'red' } })
        .png()
        .toBuffer()),
    ];
    const question = page.getByLabel('Question', { exact: true });
    await question.evaluate((area, data) => {
      const files = new DataTransfer();
      files.items.add(new File([new Uint8Array(data)], 'pasted.png', { type: 'image/png' }));
      area.dispatchEvent(new ClipboardEvent('paste', { clipboardData: files, bubbles: true, cancelable: true }));
    }, bytes);
    await question.evaluate((area, data) => {
      const files = new DataTransfer();
      files.items.add(new File([new Uint8Array(data)], 'dropped.png', { type: 'image/png' }));
      files.items.add(new File(['<svg/>'], 'drawing.svg', { type: 'image/svg+xml' }));
      area
        .closest('form')!
        .dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true }));
    }, bytes);
    await page.getByText('drawing.svg is no picture or video of a known kind').waitFor();
    await expect.poll(() => page.locator('form li img').count()).toBe(3);
    await picturesLoaded();
    await page.getByRole('button', { name: 'Remove dropped.png' }).click();
    await page.locator('summary').click();
    await page.getByLabel('max_completion_tokens').fill('12');
    await page.getByLabel('temperature').fill('0');
    await question.fill('What is ⟨2⟩?');
    await page.keyboard.press('Enter');
    await expect.poll(() => page.locator('.answer[aria-busy=false]').count(), { timeout: 60_000 }).toBe(2);
    const facts = await page.locator('.answer').first().innerText();
    expect(facts).toMatch(/\d+ prompt tokens .* \d+ tokens/);
    await sound();
    await save('chat');
  });

  test('stops, edits and asks again', async () => {
    await page.getByLabel('max_completion_tokens').fill('4000');
    await page.getByLabel('Question', { exact: true }).fill('Tell a long story.');
    await page.keyboard.press('Enter');
    // As soon as it is there: the tiny model writes hundreds of tokens a second.
    await page.waitForFunction(() => {
      const stop = [...document.querySelectorAll('button')].find(({ textContent }) => textContent === 'Stop');
      stop?.click();
      return stop !== undefined;
    });
    await page.getByText('Stopped.').first().waitFor();
    await expect.poll(() => page.locator('.answer[aria-busy=false]').count()).toBe(4);
    await page.getByLabel('max_completion_tokens').fill('5');
    await page.getByRole('button', { name: 'Edit', exact: true }).nth(1).click();
    expect(await page.getByLabel('Question', { exact: true }).inputValue()).toBe('Tell a long story.');
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: 'Send' }).click();
    await expect.poll(() => page.locator('.answer[aria-busy=false]').count(), { timeout: 60_000 }).toBe(4);
    await page.getByLabel('Show differences').first().check();
  });

  test('takes the question of a record, and is copied as code', async () => {
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
    await page.getByRole('button', { name: 'New conversation' }).click();
    await page.getByLabel('A record of opened data').selectOption({ index: 1 });
    await page.getByLabel('Record number').fill('5');
    await page.getByRole('button', { name: 'Take its question' }).click();
    const question = page.getByLabel('Question', { exact: true });
    await expect.poll(() => question.inputValue()).toBe('Is ⟨1⟩ like ⟨2⟩?');
    await page.getByText('The data answer: No.').waitFor();
    await page.getByRole('button', { name: 'Copy as openai' }).click();
    const code = await page.evaluate(() => navigator.clipboard.readText());
    expect(code).toContain('from openai import OpenAI');
    expect(code).toContain('media("record-5-0.webp")');
    await page.getByRole('button', { name: 'Send' }).click();
    await expect.poll(() => page.locator('.answer[aria-busy=false]').count(), { timeout: 60_000 }).toBe(2);
  });

  test('says so when a model ends, also before it is asked, and loads it again', async () => {
    const kill = async (): Promise<void> => {
      const pid = await page.evaluate(
        async () => (await (await fetch('/api/chat')).json()).models[0].server.pid as number,
      );
      process.kill(pid, 'SIGKILL');
    };
    await kill();
    await expect.poll(() => page.locator('td.ended').count()).toBe(2);
    for (const name of ['Load again trained', 'Load again model'])
      await page.getByRole('button', { name }).first().click();
    await expect.poll(() => page.locator('td.ready').count()).toBe(2);
    await page.getByLabel('Question', { exact: true }).fill('Here again?');
    await page.keyboard.press('Enter');
    const answers = page.locator('.answer[aria-busy=false]');
    await expect.poll(() => answers.count(), { timeout: 60_000 }).toBe(4);
    expect(await page.getByText(/killed \(SIGKILL\)/).count()).toBe(0);
    await kill();
    await page.getByLabel('Question', { exact: true }).fill('Still there?');
    await page.keyboard.press('Enter');
    await page
      .getByText(/killed \(SIGKILL\)/)
      .first()
      .waitFor();
    await expect.poll(() => page.locator('td.ended').count()).toBe(2);
    await sound();
    for (const name of ['Remove trained', 'Remove model']) await page.getByRole('button', { name }).first().click();
    await expect.poll(() => page.locator('td.ended').count()).toBe(0);
  });
});

test('the machine is examined', async () => {
  await show(page, 'machine');
  await page.getByRole('button', { name: 'Examine' }).click();
  await page.getByText('matmul bfloat16').waitFor({ timeout: 60_000 });
  await sound();
  await save('machine');
});

test('no request left the machine, and neither policy nor script was broken', () => {
  expect(bench.offences.filter((one) => !/status of (4\d\d|503)/.test(one))).toEqual([]);
});
