/** From JSON to a merged model by the command line, for the models of 4.5 and later: pictures, two turns, frames of a video. */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openSafetensors } from '@minicpm-finetune/torch';
import { afterAll, expect, it } from 'vitest';
import { tinyCheckpoint, writePicture } from '../../../minicpm-v/test/support/tiny.js';
import { LONG } from '../../../torch/test/support/long.js';
import { CLI, start, words } from '../support/cli-run.js';
import { eventsOf } from '../support/run-place.js';

const work = mkdtempSync(join(tmpdir(), 'newer-'));
afterAll(() => rmSync(work, { recursive: true }));

const turn = (role: string, content: string) => ({ role, content });

function writeRecords(): string {
  writePicture(join(work, 'a.bmp'), 150, 90, 1);
  writePicture(join(work, 'b.bmp'), 300, 280, 2);
  mkdirSync(join(work, 'clip'));
  for (const i of [0, 1, 2]) copyFileSync(join(work, 'a.bmp'), join(work, 'clip', `frame${i}.bmp`));
  const records = [
    { id: '0', image: 'a.bmp', conversations: [turn('user', '<image>\nWhat is this?'), turn('assistant', 'noise')] },
    {
      id: '1',
      image: { '<image_00>': 'a.bmp', '<image_01>': 'b.bmp' },
      conversations: [turn('user', '<image_00>\n<image_01>\nSame?'), turn('assistant', 'no')],
    },
    { id: '2', video: 'clip', conversations: [turn('user', '<video>\nWhat moves?'), turn('assistant', 'nothing')] },
  ];
  const file = join(work, 'data.json');
  writeFileSync(file, JSON.stringify(records));
  return file;
}

async function run(command: string, flags: Readonly<Record<string, unknown>>): Promise<string> {
  const ended = await start(process.execPath, [CLI, command, ...words(flags)], work, 300_000).ended;
  expect(ended.code, ended.output).toBe(0);
  return ended.output;
}

const data = writeRecords();

const VERSIONS = [
  'minicpm-v-4_7',
  ...(LONG ? (['minicpm-v-4_5', 'minicpm-o-4_5', 'minicpm-v-4_6'] as const) : []),
] as const;

it.each(VERSIONS)('%s', { timeout: 600_000 }, async (version) => {
  const model = tinyCheckpoint(work, version);
  const adapter = join(work, `${version}-run`);
  await run('train', {
    ...{
      model_name_or_path: model,
      data_path: data,
      output_dir: adapter,
      use_lora: true,
      max_steps: 2,
      logging_steps: 1,
    },
    ...{ per_device_train_batch_size: 3, learning_rate: 1e-3, model_max_length: 512, packing: true },
  });
  const merged = join(work, `${version}-merged`);
  await run('merge', { model, adapter, output_dir: merged });
  expect([...openSafetensors(merged).infos.keys()].sort()).toEqual([...openSafetensors(model).infos.keys()].sort());
  const answers = async (name: string, flags: object): Promise<string[]> => {
    const output = join(work, name);
    await run('generate', { ...flags, data_path: data, output, max_new_tokens: 6 });
    const lines = readFileSync(output, 'utf8').trim().split('\n');
    return lines.map((line) => (JSON.parse(line) as { answer: string }).answer);
  };
  const expected = await answers(`${version}-1.jsonl`, { model, adapter });
  expect(expected).toHaveLength(3);
  expect(await answers(`${version}-2.jsonl`, { model: merged })).toEqual(expected);
});

it('a LoRA training resumes, with what it saves whole in the names of its model', { timeout: 300_000 }, async () => {
  const flags = {
    ...{ model_name_or_path: tinyCheckpoint(join(work, 'to resume'), 'minicpm-v-4_6'), data_path: data },
    ...{ use_lora: true, max_steps: 3, save_steps: 1, logging_steps: 1, model_max_length: 512, learning_rate: 1e-3 },
  };
  const losses = (folder: string): unknown[] => eventsOf(folder, 'step').map(({ step, loss }) => [step, loss]);
  const whole = join(work, 'whole');
  await run('train', { ...flags, output_dir: whole });
  const resumed = join(work, 'resumed');
  const checkpoint = join(whole, 'checkpoint-1');
  await run('train', { ...flags, output_dir: resumed, resume_from_checkpoint: checkpoint });
  expect(losses(resumed)).toEqual(losses(whole).slice(1));
  const other = { ...flags, output_dir: join(work, 'other'), resume_from_checkpoint: checkpoint };
  const refused = start(
    process.execPath,
    [CLI, 'train', ...words({ ...other, lora_modules_to_save: 'vpm' })],
    work,
    60_000,
  );
  const { code, output } = await refused.ended;
  expect(code).toBe(2);
  expect(output).toContain('lora_modules_to_save was ["resampler","vpm"] and is ["vpm"]');
  expect(output).not.toContain('lora_target_modules');
});
