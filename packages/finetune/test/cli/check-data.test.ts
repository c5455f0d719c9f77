import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ENGLISH } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { checkRecords, distribution } from '../../src/cli/check-data/check-data.js';
import { checkDataCommand } from '../../src/cli/check-data/command.js';
import { formatReport } from '../../src/cli/check-data/report.js';
import { parseFlags } from '../../src/cli/command.js';
import { encoderSetup } from '../../src/data/encoder.js';
import {
  DATA_FLAGS,
  FAULTS,
  MODEL,
  MODEL_FLAGS,
  makeData,
  picture,
  plantFaults,
  soundRecord,
} from '../support/made-data.js';
import { Reports } from '../support/reports.js';

const encoder = encoderSetup(MODEL, MODEL_FLAGS, DATA_FLAGS);
const check = (paths: string[], more: Partial<Parameters<typeof checkRecords>[0]> = {}) =>
  checkRecords({ paths, encoder, threads: 0, ...more });

const RECORDS = LONG ? 2000 : 400;

/** Runs the command as main does. */
async function run(...words: string[]): Promise<{ code: number; out: string; err: string }> {
  const io = { out: '', err: '' };
  const stream = (key: 'out' | 'err') => ({
    write: (text: string) => {
      io[key] += text;
    },
  });
  const given = parseFlags(checkDataCommand.text, checkDataCommand.flags, words);
  const code = await checkDataCommand.run(given, {
    stdout: stream('out'),
    stderr: stream('err'),
    env: {},
    say: ENGLISH,
  });
  return { code, ...io };
}

describe('checkRecords', () => {
  it(`finds exactly the planted faults among ${RECORDS} records, each with its place and message`, async () => {
    const faults = plantFaults(RECORDS);
    expect(faults.size).toBe(FAULTS.length);
    const data = await makeData(RECORDS, new Map([...faults].map(([index, [line]]) => [index, line])));
    const reporter = new Reports();
    const report = await check([data.file], { threads: 2, reporter });
    const planted = [...faults.keys()].sort((a, b) => a - b);
    expect(report.errors.map(({ record }) => record)).toEqual(planted);
    for (const error of report.errors) {
      expect(error.message).toMatch(faults.get(error.record)![1]);
      expect(error).toMatchObject({ file: data.file, line: error.record + 1, cure: expect.stringMatching(/\w/) });
    }
    expect(report).toMatchObject({ records: RECORDS, warnings: [], too_long: 0, model_max_length: 2048 });
    expect(reporter.tasks).toMatchObject([{ label: 'Checking', total: RECORDS, end: 'finished' }]);
    expect(reporter.tasks[0]!.updates).toEqual(Array.from({ length: RECORDS }, (_, i) => i + 1));

    const sound = Array.from({ length: RECORDS }, (_, i) => i).filter((i) => !faults.has(i));
    expect(report.text_only).toBe(sound.filter((i) => i % 10 === 9).length);
    expect(report.images).toBe(sound.filter((i) => i % 10 < 8).length + 2 * sound.filter((i) => i % 10 === 8).length);
    // the four sizes of makeData's pictures: 56x56 whole, 90x60 and 60x130 in 2 slices, 200x40 in 4
    const shown = sound.flatMap((i) => (i % 10 === 9 ? [] : i % 10 === 8 ? [i, i + 5] : [i]));
    const sliced = (slices: number) => shown.filter((i) => [0, 2, 2, 4][i % 4] === slices).length;
    expect(report.slices_per_image).toEqual({ 0: sliced(0), 2: sliced(2), 4: sliced(4) });
    expect(report.tokens!.histogram.reduce((sum, { count }) => sum + count, 0)).toBe(sound.length);
    expect(report.supervised_share).toBeGreaterThan(0.1);
    expect(report.supervised_share).toBeLessThan(0.9);
  });

  it('says the same for 0, 1 and 2 threads', async () => {
    const data = await makeData(60, new Map([[7, FAULTS[11]![0]]]));
    const [none, ...others] = await Promise.all(
      [0, 1, 2].map(async (threads) => ({ ...(await check([data.file], { threads })), seconds: 0 })),
    );
    expect(none!.errors).toHaveLength(1);
    for (const other of others) expect(other).toEqual(none);
  });

  it('checks all three forms and several files at once', async () => {
    const data = await makeData(12);
    const turns = (content: string) => [
      { role: 'user', content },
      { role: 'assistant', content: 'A' },
    ];
    const messages = join(data.folder, 'messages.json');
    writeFileSync(
      messages,
      JSON.stringify([
        { messages: turns('<image>Q'), images: ['images/1.jpg'] },
        { messages: turns('<image>Q'), images: [] },
      ]),
    );
    const parquet = fileURLToPath(new URL('../fixtures/data/messages.snappy.parquet', import.meta.url));
    const report = await check([data.file, messages, parquet]);
    expect(report.files.map(({ records }) => records)).toEqual([12, 2, 7]);
    expect(report.errors).toMatchObject([{ file: messages, record: 1, turn: 0 }]);
    expect(report.images).toBe(12 + 1 + 7);
  });

  it('warns of what changes a record or looks wrong', async () => {
    const empty = {
      conversations: [
        { role: 'user', content: 'Q' },
        { role: 'assistant', content: ' ' },
      ],
    };
    const long = {
      conversations: [
        { role: 'user', content: 'Q' },
        { role: 'assistant', content: 'word '.repeat(300) },
      ],
    };
    const data = await makeData(
      20,
      new Map([
        [3, empty],
        [5, long],
      ]),
    );
    const flags = { ...DATA_FLAGS, model_max_length: 220 };
    const report = await check([data.file], { encoder: encoderSetup(MODEL, MODEL_FLAGS, flags) });
    expect(report.errors).toEqual([]);
    expect(report.warnings).toMatchObject([
      { record: 3, message: expect.stringMatching(/answer in turn 1 is empty/) },
      { record: 5, message: expect.stringMatching(/at most 220 tokens .* its end is cut off/) },
    ]);
    expect(report).toMatchObject({ too_long: 1, tokens: { max: expect.any(Number) } });
    expect(report.tokens!.max).toBeGreaterThan(300);
    const strict = await check([data.file], {
      encoder: encoderSetup(MODEL, MODEL_FLAGS, { ...flags, overlong: 'error' }),
    });
    expect(strict.errors).toMatchObject([{ record: 5, flag: '--model_max_length' }]);
  });

  it('counts what is learned as text, what is not learned, and the keys of each file', async () => {
    const turns = soundRecord(9).conversations as object[];
    const marked = turns.map((turn, i) => (i === 1 ? { ...turn, loss: false } : turn));
    const lines: [number, Record<string, unknown>][] = [
      [2, { conversations: [...marked, ...turns] }],
      [3, { ...soundRecord(0), photo: 'x' }],
      [4, { ...soundRecord(0), tools: ['zoom'] }],
      [5, { ...soundRecord(0), tools: ['zoom'] }],
      [6, { conversations: soundRecord(0).conversations, image_path: 'images/1.jpg' }],
      [7, { conversations: [{ role: 'user', content: '这张图片里有什么？' }, turns[1]] }],
    ];
    const { file } = await makeData(10, new Map(lines));
    const report = await check([file]);
    expect(report.errors.map(({ record, key }) => [record, key])).toEqual([
      [4, 'tools'],
      [5, 'tools'],
      [6, 'image_path'],
    ]);
    expect(report.notes).toEqual([
      {
        file,
        records: 7,
        without_picture: { records: 3, first: 2 },
        misses_picture: { records: 1, first: 7 },
        not_learned: { records: 1, first: 2, answers: 1 },
        unread_keys: { photo: { records: 1, first: 3 } },
        refused_keys: { tools: { records: 2, first: 4 }, image_path: { records: 1, first: 6 } },
      },
    ]);
    const text = formatReport(report, 20);
    expect(text).toContain(
      [
        `${file}: records without a picture, learned as text: 3 of 7 (first: record 2).`,
        `${file}: records without a picture whose questions speak of one: 1 (first: record 7).`,
        `${file}: answers marked as not to be learned, context only: 1, in records: 1 (first: record 2).`,
        `${file}: records with the key photo, which is not read: 1 (first: record 3).`,
        `${file}: records refused for the key tools: 2 (first: record 4).`,
        `${file}: records refused for the key image_path: 1 (first: record 6).`,
      ].join('\n'),
    );
    expect(text.match(/^error: /gm)).toHaveLength(2);
    expect(text).toContain('… and 1 more error; --json lists all of them');
  });

  it('counts turns as the data does, beside the key system', async () => {
    const conversations = [
      { role: 'user', content: 'half \ud83d' },
      { role: 'assistant', content: '\ufffd' },
    ];
    const lines = [
      { system: 'S', conversations },
      { system: 'S', conversations: [{ role: 'user', content: 'Q' }, conversations[1]] },
      { system: '\ude00', conversations: [{ role: 'user', content: 'Q' }, conversations[1]] },
      { conversations },
    ];
    const { file } = await makeData(4, new Map(lines.entries()));
    const { errors, warnings } = await check([file]);
    expect(errors.map(({ record, turn, key }) => [record, turn, key])).toEqual([
      [0, 0, undefined],
      [2, undefined, 'system'],
      [3, 0, undefined],
    ]);
    expect(warnings).toMatchObject([{ record: 1, message: expect.stringMatching(/turn 1 has the replacement/) }]);
  });

  it('warns of lost characters, and of pictures named in answers', async () => {
    const said = (question: string, answer: string) => ({
      conversations: [
        { role: 'user', content: question },
        { role: 'assistant', content: answer },
      ],
    });
    const lines = [said('lost \ufffd', 'A'), said('Write HTML.', '<img src="a.png">'), said('half \ud83d', 'A')];
    const { file } = await makeData(3, new Map(lines.entries()));
    const report = await check([file]);
    expect(report.warnings).toMatchObject([
      { record: 0, message: expect.stringMatching(/turn 0 has the replacement character U\+FFFD as character 6/) },
      { record: 1, message: expect.stringMatching(/turn 1 \(assistant\) names a picture, "<img src=/) },
    ]);
    expect(report.errors).toMatchObject([{ record: 2, turn: 0, message: expect.stringMatching(/half of one/) }]);
  });

  it('tells of the animation of which one frame is used', async () => {
    const data = await makeData(3, new Map([[1, { ...soundRecord(0), image: 'images/anim.gif' }]]));
    mkdirSync(data.folder, { recursive: true });
    const frames = await Promise.all([1, 2].map((seed) => picture(40, 40, seed)));
    const { default: sharp } = await import('sharp');
    writeFileSync(
      join(data.folder, 'images/anim.gif'),
      await sharp(frames, { join: { animated: true } })
        .gif()
        .toBuffer(),
    );
    const report = await check([data.file]);
    expect(report.errors).toEqual([]);
    expect(report.warnings).toMatchObject([{ record: 1, message: expect.stringMatching(/2 frames; only the first/) }]);
  });

  it('refuses what concerns no single record', async () => {
    await expect(check(['gone.json'])).rejects.toThrow(/there is no "gone.json"/);
    const data = await makeData(3);
    await expect(check([data.file], { encoder: { ...encoder, tokenizerFolder: data.folder } })).rejects.toThrow(
      /tokenizer/,
    );
  });
});

describe('distribution', () => {
  it('has round bins without gaps and exact quantiles', () => {
    expect(distribution(new Float64Array(0))).toBeNull();
    const numbers = Float64Array.from({ length: 1000 }, (_, i) => 37 + i);
    const { histogram, ...rest } = distribution(numbers)!;
    expect(rest).toEqual({ min: 37, mean: 536.5, median: 536, p90: 936, p99: 1026, max: 1036 });
    expect(histogram.map(({ from, to }) => to - from)).toEqual(Array(11).fill(100));
    expect(histogram.map(({ from }) => from)).toEqual(Array.from({ length: 11 }, (_, i) => i * 100));
    expect(histogram.map(({ count }) => count)).toEqual([63, ...Array(9).fill(100), 37]);
    expect(distribution(Float64Array.from([5, 5, 5]))!.histogram).toEqual([{ from: 5, to: 6, count: 3 }]);
  });
});

describe('the command', () => {
  it('prints a report and ends with 0 when all is well', async () => {
    const data = await makeData(30);
    const { code, out, err } = await run(
      '--data_path',
      data.file,
      '--model_name_or_path',
      MODEL,
      '--scale_resolution',
      '56',
    );
    expect(code).toBe(0);
    expect(out).toMatch(/data.jsonl: JSON Lines, 30 records, the first in the seed form/);
    expect(out).toMatch(/30 records checked in .* images\/s\): 0 errors, 0 warnings/);
    expect(out).toMatch(/--model_max_length 2048 holds every record; suggested: \d+/);
    expect(out).toMatch(/30 images, 3 text-only records/);
    expect(err).toMatch(/Checking: 30 records/);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
    expect(out + err).not.toMatch(/[\u001b\r]/);
  });

  it('ends with 2 when a record is bad, and prints as many errors as asked for', async () => {
    const faults = plantFaults(40);
    const data = await makeData(40, new Map([...faults].map(([index, [line]]) => [index, line])));
    const words = [
      '--data_path',
      data.file,
      '--model_name_or_path',
      MODEL,
      '--scale_resolution',
      '56',
      '--max_image_pixels',
      '100000',
    ];
    const { code, out } = await run(...words, '--max_shown', '3');
    expect(code).toBe(2);
    expect(out.match(/^error: /gm)).toHaveLength(3);
    expect(out).toMatch(new RegExp(`at: ${data.file}:\\d+, record \\d+`));
    expect(out).toMatch(/… and 17 more errors; --json lists all of them/);
    const json = await run(...words, '--json', '--per_record');
    expect(json.code).toBe(2);
    const report = JSON.parse(json.out);
    expect(report.errors).toHaveLength(20);
    const { tokens, supervised, images } = report.per_record;
    expect([tokens.length, supervised.length, images.length]).toEqual([data.records, data.records, data.records]);
    expect(tokens.filter((length: number | null) => length === null)).toHaveLength(20);
    expect(Math.max(...tokens)).toBe(report.tokens.max);
    expect(images.reduce((sum: number, count: number | null) => sum + (count ?? 0), 0)).toBe(report.images);
  });

  it('needs data and a model', async () => {
    await expect(run('--model_name_or_path', MODEL)).rejects.toThrow(/--data_path/);
    await expect(run('--data_path', 'x.json')).rejects.toThrow(/--model_name_or_path/);
    await expect(run('--data_path', 'x.json', '--model_name_or_path', MODEL, '--llm_type', 'llama3')).rejects.toThrow(
      /"qwen"/,
    );
  });

  it('formats a report without sound records', () => {
    const report = {
      files: [],
      records: 1,
      errors: [{ file: 'a', record: 0, message: 'm' }],
      warnings: [],
      notes: [],
      tokens: null,
      supervised_share: null,
      text_only: 0,
      images: 0,
      videos: 0,
      frames: 0,
      slices_per_image: {},
      model_max_length: 1,
      too_long: 0,
      suggested_model_max_length: null,
      seconds: 1,
    };
    expect(formatReport(report, 5)).toBe(
      '1 record checked in 1.0 s (1 records/s): 1 error, 0 warnings\n\nerror: m\n   at: a, record 0',
    );
  });
});

it('says which flags the model has no use for', async () => {
  const { file } = await makeData(1);
  const words = ['--model_name_or_path', MODEL, '--data_path', file, '--json'];
  const { code, err } = await run(...words, '--thinking', 'as_written', '--video_fps', '2');
  expect(code).toBe(0);
  expect(err).toContain('notice: --thinking as_written: without effect: MiniCPM-V-2_6 does not think.');
  expect(err).toContain('notice: --video_fps 2: without effect: MiniCPM-V-2_6 reads no videos.');
  expect((await run(...words)).err).not.toContain('without effect');
});
