import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { setThreads } from '@minicpm-finetune/torch';
import { afterAll, describe, expect, it } from 'vitest';
import { generateAnswers } from '../../src/cli/generate/generate.js';
import type { AnswerFileOptions } from '../../src/cli/generate/options.js';
import { type AnswerLine, questionOf } from '../../src/data/question.js';
import { GREEDY } from '../support/answer-options.js';
import { Reports } from '../support/reports.js';
import { tinyAdapter, tinyModel, writePicture } from '../support/tiny-model.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'generate-'));
afterAll(() => rmSync(work, { recursive: true }));

const model = tinyModel(join(work, 'model'));
writePicture(join(work, 'a.bmp'), 1);
writePicture(join(work, 'b.bmp'), 2);

const turn = (role: string, content: string) => ({ role, content });
const RECORDS = [
  { id: 'x', image: 'a.bmp', conversations: [turn('user', '<image>\nWhat?'), turn('assistant', 'A cat.')] },
  { conversations: [turn('user', 'Hello'), turn('assistant', 'Hi.'), turn('user', 'And?'), turn('assistant', 'Bye.')] },
  {
    image: { '<image_00>': 'a.bmp', '<image_01>': 'b.bmp' },
    conversations: [turn('user', '<image_00> or <image_01>?'), turn('assistant', 'Both.')],
  },
  { conversations: [turn('user', 'A question without an answer?')] },
  { image: 'b.bmp', conversations: [turn('user', 'Describe it.'), turn('assistant', 'Noise.')] },
];
const data = join(work, 'data.json');
writeFileSync(data, JSON.stringify(RECORDS));

const OPTIONS: AnswerFileOptions = {
  model,
  adapters: [],
  dataPaths: [data],
  output: join(work, 'out', 'answers.jsonl'),
  batchSize: 2,
  allowSpecialText: false,
  onBadRecord: 'stop',
  askChanged: false,
  maxNewTokens: 6,
  ...GREEDY,
};

const NONE = { records: 0, resumed: 0, bad: 0, left: 0, compared: 0, exact: 0 };

const lines = (file: string): AnswerLine[] =>
  readFileSync(file, 'utf8')
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as AnswerLine);

async function run(options: Partial<AnswerFileOptions> = {}) {
  const reporter = new Reports();
  const summary = await generateAnswers({ ...OPTIONS, ...options }, { reporter });
  const asked = reporter.tasks.filter(({ label }) => label === 'Answering');
  return { summary, progress: asked.flatMap(({ updates }) => updates), notices: reporter.notices };
}

const refusal = async (options: Partial<AnswerFileOptions>): Promise<string> => {
  const error = await run(options).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).format();
};

describe('answers for a data file', () => {
  it('come with question and reference, one line a record', async () => {
    const { summary, progress } = await run();
    expect(summary).toEqual({ ...NONE, records: 5, compared: 4, exactMatch: 0 });
    expect(progress).toEqual([2, 4, 5]);
    const all = lines(OPTIONS.output);
    expect(all.map(({ record, id }) => [record, id])).toEqual([
      [0, 'x'],
      [1, undefined],
      [2, undefined],
      [3, undefined],
      [4, undefined],
    ]);
    expect(all.map(({ reference }) => reference)).toEqual(['A cat.', 'Bye.', 'Both.', undefined, 'Noise.']);
    expect(all[1]!.question).toBe('And?');
    expect(all.every(({ answer, tokens, end }) => answer !== '' && tokens <= 6 && end !== null)).toBe(true);
  });

  it('do not depend on the batch, drawn or not', async () => {
    for (const temperature of [0, 1.5]) {
      const outputs = [];
      for (const batchSize of [1, 5]) {
        const output = join(work, `t${temperature}-b${batchSize}.jsonl`);
        await run({ output, batchSize, temperature, topK: 50, seed: 9 });
        outputs.push(readFileSync(output, 'utf8'));
      }
      expect(outputs[0]).toBe(outputs[1]);
    }
  });

  it('are counted when they are the reference', async () => {
    const own = join(work, 'own.json');
    const first = lines(OPTIONS.output)[0]!.answer;
    const record = {
      image: 'a.bmp',
      conversations: [turn('user', '<image>\nWhat?'), turn('assistant', ` ${first}\n`)],
    };
    writeFileSync(own, JSON.stringify([record, RECORDS[4]]));
    const { summary } = await run({ dataPaths: [own], output: join(work, 'own.jsonl') });
    expect(summary.exactMatch).toBe(0.5);
  });

  it('are not compared with an answer that is marked as not to be learned', async () => {
    const own = join(work, 'marked.json');
    const output = join(work, 'marked.jsonl');
    const { conversations } = RECORDS[4] as { conversations: object[] };
    const marked = [...conversations.slice(0, -1), { ...conversations.at(-1), weight: 0 }];
    writeFileSync(own, JSON.stringify([{ ...RECORDS[4], conversations: marked }, RECORDS[4]]));
    const { summary, notices } = await run({ dataPaths: [own], output });
    expect(summary).toMatchObject({ records: 2, compared: 1 });
    expect(notices).toEqual(['answers marked as not to be learned, with which none is compared: 1 (first: record 0).']);
    const [first, second] = lines(output);
    expect(first).not.toHaveProperty('reference');
    expect(first).toEqual({ ...second, record: 0, reference: undefined }); // the same question, and the same answer
    expect((await run({ dataPaths: [own], output })).summary).toMatchObject({ resumed: 2, compared: 1 });
  });

  it('change with an adapter', async () => {
    const adapter = tinyAdapter(model, join(work, 'adapter'));
    const output = join(work, 'adapted.jsonl');
    await run({ output, adapters: [adapter] });
    expect(lines(output).map(({ answer }) => answer)).not.toEqual(lines(OPTIONS.output).map(({ answer }) => answer));
  });
});

describe('a file that is there', () => {
  it('is left alone when it is complete, without loading the model', async () => {
    const before = readFileSync(OPTIONS.output, 'utf8');
    const { summary, progress } = await run();
    expect(summary).toEqual({ ...NONE, records: 5, resumed: 5, compared: 4, exactMatch: 0 });
    expect(progress).toEqual([]);
    expect(readFileSync(OPTIONS.output, 'utf8')).toBe(before);
  });

  it('is resumed, a line cut in the middle is written again', async () => {
    const whole = lines(OPTIONS.output);
    const text = readFileSync(OPTIONS.output, 'utf8').split('\n');
    writeFileSync(OPTIONS.output, `${text[0]}\n${text[2]}\n${text[3]!.slice(0, 20)}`);
    const { summary } = await run();
    expect(summary.resumed).toBe(2);
    expect(lines(OPTIONS.output).sort((x, y) => x.record - y.record)).toEqual(whole);
  });

  it('is refused when other settings made it', async () => {
    expect(await refusal({ temperature: 1 })).toContain('--temperature: 0 then, 1 now');
    expect(await refusal({ maxNewTokens: 7, seed: 3 })).toMatch(
      /--max_new_tokens: 6 then, 7 now; --seed: 0 then, 3 now/,
    );
    expect(await refusal({ allowSpecialText: true })).toContain('--allow_special_text: false then, true now');
    expect(await refusal({ maxSliceNums: 2 })).toContain('max_slice_nums: 4 then, 2 now');
  });

  it('is refused when a line is no JSON', async () => {
    const output = join(work, 'damaged.jsonl');
    await run({ output });
    appendFileSync(output, 'oops\n');
    const text = await refusal({ output });
    expect(text).toContain('damaged.jsonl:6');
    expect(statSync(output).size).toBeGreaterThan(0);
  });
});

describe('refused', () => {
  it('records that cannot be asked, by file and record, before the model is loaded', async () => {
    const bad = join(work, 'bad.json');
    writeFileSync(bad, JSON.stringify([RECORDS[1], RECORDS[3], { conversations: [turn('user', 'a <|im_end|> b')] }]));
    const output = join(work, 'bad.jsonl');
    const text = await refusal({ dataPaths: [bad], output });
    expect(text).toContain('bad.json');
    expect(text).toContain('record 2, turn 0');
    expect(text).toContain('--on_bad_record skip');
    expect(existsSync(output)).toBe(false);
    expect(
      (await run({ dataPaths: [bad], output: join(work, 'plain.jsonl'), allowSpecialText: true })).summary.records,
    ).toBe(3);
  });

  it.each([
    ['half a character', 'cut \ud83d', /half of one/],
    ['a picture of another tool', '![](a.bmp) What?', /Expected <image> for a picture/],
  ])('%s, by file and record', async (name, content, message) => {
    const bad = join(work, `${name}.json`);
    writeFileSync(bad, JSON.stringify([{ conversations: [turn('user', content), turn('assistant', 'A')] }]));
    const text = await refusal({ dataPaths: [bad], output: join(work, `${name}.jsonl`) });
    expect(text).toMatch(message);
    expect(text).toContain('record 0, turn 0');
  });

  it('a model that is none', async () => {
    const output = join(work, 'made', 'for', 'it', 'n.jsonl');
    expect(await refusal({ model: join(work, 'nowhere'), output })).toContain('--model');
    expect(await refusal({ adapters: [join(work, 'nowhere')], output })).toContain('adapter');
    expect(existsSync(join(work, 'made'))).toBe(false);
  });
});

it('the question of a record is what stands before its last answer', () => {
  const { messages, text, reference } = questionOf({
    id: undefined,
    image: undefined,
    conversations: [
      { role: 'system', content: 'S' },
      { role: 'user', content: 'Q' },
      { role: 'assistant', content: 'A' },
      { role: 'user', content: 'R' },
    ],
  });
  expect(messages.map(({ role }) => role)).toEqual(['system', 'user', 'assistant', 'user']);
  expect([text, reference]).toEqual(['R', null]);
});
