/** Commands in Chinese: errors, a training's log, reports. What programs read stays English. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { displayWidth } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { main } from '../../src/cli/main.js';
import { makePlace, type Place } from '../support/run-place.js';

async function run(words: readonly string[], env: Record<string, string> = { LANG: 'zh_CN.UTF-8' }) {
  const text = { out: '', err: '' };
  const stream = (key: 'out' | 'err') => ({ write: (piece: string) => (text[key] += piece) });
  const code = await main(words, { stdout: stream('out'), stderr: stream('err'), env });
  return { code, ...text };
}

const ENGLISH_WORDS = /[A-Za-z][a-z]+ [a-z]{2,} [a-z]{2,}/;

let place: Place;
beforeAll(() => {
  place = makePlace(6);
});
afterAll(() => rmSync(place.folder, { recursive: true, force: true }));

describe('errors in Chinese', () => {
  it('of a flag: both values and the cure', async () => {
    const { code, err } = await run(['train', '--lora_r', '0', '--lang', 'zh'], { LC_ALL: 'C' });
    expect([code, err]).toEqual([
      2,
      '错误：--lora_r 应为不小于 1 的整数，但收到 0。\n位置：--lora_r\n解决：请给出该范围内的值。\n',
    ]);
  });

  it('of an unknown flag, with the nearest one', async () => {
    const { err } = await run(['train', '--learning_rat', '1']);
    expect(err).toBe(
      '错误：应为已知的参数，但收到 --learning_rat。\n位置：--learning_rat\n' +
        '解决：是不是想写 --learning_rate？`minicpm-finetune train --help` 列出全部参数。\n',
    );
  });

  it('of a required flag, with its help', async () => {
    const { err } = await run(['check-data', '--data_path', place.text]);
    expect(err).toContain('错误：--model_name_or_path 应为一个值，但收到空值。');
    expect(err).toContain('解决：使用其分词器和切片方式的检查点。请这样给出：--model_name_or_path <dir|hub-id>。');
  });

  it('of a record: file, record and turn', async () => {
    const file = join(place.folder, 'bad.json');
    const turns = [
      { role: 'user', content: 'a' },
      { role: 'robot', content: 'b' },
    ];
    writeFileSync(file, JSON.stringify([{ conversations: turns }]));
    const words = ['--data_path', file, '--model_name_or_path', place.model, '--output_dir', join(place.folder, 'bad')];
    const { code, err } = await run(['train', ...words, '--progress', 'quiet']);
    expect(code).toBe(2);
    expect(err).toContain('错误：对话轮的键 role 应为 user 或 assistant（首轮也可以是 system），但收到 "robot"。');
    expect(err).toContain(`位置：${file}:1, 第 0 条记录, 第 1 轮\n`);
    expect(err).toContain('解决：请给角色改名，或把内容放进 user 轮。');
  });

  it('with what the system says, which stays as it is', async () => {
    const folder = join(place.folder, 'nothing-here');
    mkdirSync(folder);
    const { err } = await run(['check-data', '--data_path', place.text, '--model_name_or_path', folder]);
    expect(err).toMatch(/^错误：.*，但收到.*\n位置：/);
    expect((await run(['nosuch'])).err).toMatch(
      /^错误：应为一个命令，但收到 nosuch。\n解决：可用的命令：train, ui, chat, [a-z, -]+, estimate。\n$/,
    );
  });

  it('English where the locale says so', async () => {
    const { err } = await run(['train', '--lora_r', '0'], { LC_ALL: 'C', LANG: 'zh_CN.UTF-8' });
    expect(err).toMatch(/^error: Expected an integer of at least 1 for --lora_r but received 0\./);
  });

  it('a --lang that cannot be read is refused in the language of the locale', async () => {
    expect((await run(['train', '--lang', 'fr'])).err).toContain('错误：--lang 应为以下之一：en, zh，但收到 "fr"。');
  });
});

describe('a training in Chinese', () => {
  const words = (name: string, ...more: string[]): string[] => [
    ...[
      'train',
      '--model_name_or_path',
      place.model,
      '--data_path',
      place.data,
      '--output_dir',
      join(place.folder, name),
    ],
    ...['--max_steps', '2', '--logging_steps', '1', '--per_device_train_batch_size', '2', '--model_max_length', '256'],
    ...[
      '--threads',
      '1',
      '--dataloader_num_workers',
      '0',
      '--lora_r',
      '8',
      '--save_strategy',
      'steps',
      '--save_steps',
      '1',
    ],
    ...more,
  ];

  it('logs notices, arithmetic, steps, checkpoints and the end, with nothing left in English', async () => {
    const { code, err } = await run(words('log', '--progress', 'plain'));
    expect(code).toBe(0);
    expect(err).toContain('提示：--lora_r 8：没有作用：use_lora 为 false。');
    expect(err).toContain('每轮步数 = ceil(6 / (2 × 1)) = 3');
    expect(err).toMatch(/^读取记录：6 条记录，用时 [\d.]+ s/m);
    expect(err).toMatch(/^6 条记录，2 步$/m);
    expect(err).toMatch(/^第 1\/2 步 {2}损失 [\d.]+ {2}剩余 [\d:]+ {2}学习率 \S+ {2}梯度范数 \S+ {2}\S+.* 样本\/秒/m);
    expect(err).toMatch(/^已保存 .*checkpoint-1（[\d.]+ .B，用时 [\d.]+ 秒）/m);
    expect(err).toMatch(/^在第 2 步之后完成，用时 0:\d\d，平均损失 [\d.]+$/m);
    expect(err).toMatch(/^提示：训练好的模型在 .*log。$/m);
    for (const line of err.split('\n')) expect(line).not.toMatch(ENGLISH_WORDS);
  });

  it('keeps events.jsonl and JSON lines in English', async () => {
    const { out } = await run(words('json', '--progress', 'json'));
    expect(out).toContain('without effect: use_lora is false');
    const written = out + readFileSync(join(place.folder, 'json', 'events.jsonl'), 'utf8');
    // but for the names of the folders in which the tests run
    expect(written.replaceAll(process.cwd(), '')).not.toMatch(/[\u4e00-\u9fff]/);
  });
});

describe('reports in Chinese', () => {
  it('check-data', async () => {
    const words = ['check-data', '--data_path', place.data, '--model_name_or_path', place.model];
    const { code, out } = await run([...words, '--dataloader_num_workers', '1']);
    expect(code).toBe(0);
    expect(out).toContain(
      `${place.data}: JSON 数组，6 条记录，第一条为官方格式（conversations，内含 role 和 content）`,
    );
    expect(out).toMatch(/^[\d.]+ 秒内检查了 6 条记录（\d+ 条\/秒，\d+ 张图片\/秒）：0 个错误，0 个警告$/m);
    expect(out).toMatch(/^每条记录的词元数：最小 \d+，中位数 \d+/m);
    expect(out).toMatch(/^6 张图片；每张图片除缩略图外的切片数：$/m);
    for (const line of out.split('\n')) expect(line).not.toMatch(ENGLISH_WORDS);
    const bars = out.split('\n').filter((line) => line.includes(' 到 '));
    expect(new Set(bars.map((line) => displayWidth(line.slice(0, line.search(/ {2}[#]| {42}/)))).values()).size).toBe(
      1,
    );
    expect((await run([...words, '--json', '--dataloader_num_workers', '1'])).out).not.toMatch(/[\u4e00-\u9fff]/);
  });

  it('render: the legend and the summary, but not the tokens', async () => {
    const { out } = await run(['render', '--data_path', place.data, '--model_name_or_path', place.model]);
    expect(out).toMatch(/^词元 {2}角色/);
    expect(out).toMatch(/--compat inference：\d+ 个词元，其中 \d+ 个参与学习，1 张图片（1）/);
    expect(out).toMatch(/\[图片的 \d+ 个特征\]/);
  });

  it('doctor', async () => {
    const { out } = await run(['doctor']);
    expect(out).toMatch(/^正常 {4}Node：\S+，/m);
    expect(out).toMatch(/^正常 {4}处理器：.*，可用核心 \d+ 个$/m);
  });
});
