import {
  appendFileSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { takeLock, UserError } from '@minicpm-finetune/run';
import { setThreads } from '@minicpm-finetune/torch';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { generateAnswers } from '../../src/cli/generate/generate.js';
import type { AnswerFileOptions } from '../../src/cli/generate/options.js';
import type { AnswerLine, BadLine } from '../../src/data/question.js';
import { GREEDY } from '../support/answer-options.js';
import { Reports } from '../support/reports.js';
import { tinyAdapter, tinyModel, writePicture } from '../support/tiny-model.js';

setThreads(1);
const work = mkdtempSync(join(tmpdir(), 'resume-'));
afterAll(() => rmSync(work, { recursive: true }));
process.env.XDG_CACHE_HOME = join(work, 'cache');

const model = tinyModel(join(work, 'model'));
const adapters = [1, 2].map((seed) => tinyAdapter(model, join(work, `adapter-${seed}`), seed));
for (const name of ['a', 'b', 'c']) writePicture(join(work, `${name}.bmp`), name.charCodeAt(0));

writeThin(join(work, 'thin.bmp'));

/** A picture of 1 by 500 pixels, which no model can see. */
function writeThin(path: string): void {
  const bytes = Buffer.alloc(54 + 4 * 500);
  bytes.write('BM');
  bytes.writeUInt32LE(bytes.length, 2);
  bytes.writeUInt32LE(54, 10);
  bytes.writeUInt32LE(40, 14);
  bytes.writeInt32LE(1, 18);
  bytes.writeInt32LE(500, 22);
  bytes.writeUInt16LE(1, 26);
  bytes.writeUInt16LE(24, 28);
  writeFileSync(path, bytes);
}

const turn = (role: string, content: string) => ({ role, content });
const record = (image: string, question: string, answer: string) => ({
  image,
  conversations: [turn('user', `<image>\n${question}`), turn('assistant', answer)],
});
const [A, B, C] = [record('a.bmp', 'What?', 'A'), record('b.bmp', 'Which?', 'B'), record('c.bmp', 'Who?', 'C')];
const data = join(work, 'data.json');
const put = (...records: unknown[]): void => writeFileSync(data, JSON.stringify(records));

let made = 0;
let output = '';
beforeEach(() => {
  output = join(work, `out-${++made}.jsonl`);
  put(A, B, C);
});

const defaults = (): AnswerFileOptions => ({
  model,
  adapters: [],
  dataPaths: [data],
  output,
  batchSize: 1,
  allowSpecialText: false,
  onBadRecord: 'stop',
  askChanged: false,
  maxNewTokens: 3,
  ...GREEDY,
});

async function run(options: Partial<AnswerFileOptions> = {}, signal?: AbortSignal, reporter = new Reports()) {
  const context = { reporter, ...(signal === undefined ? {} : { signal }) };
  const summary = await generateAnswers({ ...defaults(), ...options }, context);
  const asked = reporter.tasks.some(({ label }) => label === 'Answering');
  return { summary, asked, notices: reporter.notices.join('\n') };
}

const refusal = async (options: Partial<AnswerFileOptions> = {}): Promise<string> => {
  const error = await run(options).catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(UserError);
  return (error as UserError).format();
};

const text = (): string => readFileSync(output, 'utf8');
const lines = (): (AnswerLine & BadLine)[] =>
  text()
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line) as AnswerLine & BadLine);

/** The files of one folder in the place of another's, with sizes and times as they were. */
function replaceFiles(folder: string, by: string, names: readonly string[]): void {
  for (const name of names) {
    const { atime, mtime, size } = statSync(join(folder, name));
    copyFileSync(join(by, name), join(folder, name));
    utimesSync(join(folder, name), atime, mtime);
    if (name.endsWith('.safetensors')) expect(statSync(join(folder, name)).size).toBe(size);
  }
}

describe('a model is known by its content', () => {
  it('wherever its folders are', async () => {
    const moved = join(work, 'moved');
    cpSync(model, moved, { recursive: true });
    const adapter = join(work, 'moved-adapter');
    cpSync(adapters[0]!, adapter, { recursive: true });
    await run({ adapters: [adapters[0]!] });
    const before = text();
    const { summary, asked } = await run({ model: moved, adapters: [adapter] });
    expect([summary.resumed, asked]).toEqual([3, false]);
    expect(text()).toBe(before);
  });

  it('other weights under the same path, with the same size and time, are refused', async () => {
    const own = join(work, 'own');
    cpSync(model, own, { recursive: true });
    const other = tinyModel(join(work, 'other'), 2);
    await run({ model: own });
    replaceFiles(own, other, ['model.safetensors']);
    const said = await refusal({ model: own });
    expect(said).toContain(`the weights of --model ${own}: the content differs`);
    expect(said).toContain('Give another file');
    expect(said).not.toContain('--adapter');
  });

  it('another adapter under the same path, or in another order, is refused', async () => {
    const own = join(work, 'own-adapter');
    cpSync(adapters[0]!, own, { recursive: true });
    await run({ adapters: [own] });
    replaceFiles(own, adapters[1]!, readdirSync(own));
    expect(await refusal({ adapters: [own] })).toContain(`--adapter ${own}: the content differs`);
    expect(await refusal()).toContain(`--adapter: ${own} then, none now`);
    output = `${output}.two`;
    await run({ adapters: [...adapters] });
    expect(await refusal({ adapters: [...adapters].reverse() })).toContain(`the content is not that of ${adapters[0]}`);
  });

  it('what an adapter is scaled by, and what the model is configured to, belong to it', async () => {
    const own = join(work, 'scaled');
    cpSync(adapters[0]!, own, { recursive: true });
    await run({ adapters: [own] });
    const file = join(own, 'adapter_config.json');
    writeFileSync(file, readFileSync(file, 'utf8').replace('"lora_alpha": 8', '"lora_alpha": 16'));
    expect(await refusal({ adapters: [own] })).toContain('the content differs');
    const configured = join(work, 'configured');
    cpSync(model, configured, { recursive: true });
    output = `${output}.two`;
    await run({ model: configured });
    const config = join(configured, 'config.json');
    writeFileSync(config, readFileSync(config, 'utf8').replace(/"rms_norm_eps": ?[^,]+/, '"rms_norm_eps": 0.1'));
    expect(await refusal({ model: configured })).toContain('config.json of --model');
  });

  it('so does the tokenizer', async () => {
    const own = join(work, 'spoken');
    cpSync(model, own, { recursive: true });
    await run({ model: own });
    appendFileSync(join(own, 'tokenizer_config.json'), '\n');
    expect(await refusal({ model: own })).toContain('the tokenizer or its chat template of --model');
  });

  it('answers of an earlier version, which knew paths only, are refused', async () => {
    await run();
    writeFileSync(`${output}.settings.json`, JSON.stringify({ model, adapters: [], data: '', max_new_tokens: 3 }));
    expect(await refusal()).toContain('earlier version');
    rmSync(output);
    expect((await run()).summary.records).toBe(3);
  });
});

describe('a record is known by its content', () => {
  it('wherever it stands: what is there is not asked again, and its line has the number of now', async () => {
    await run();
    const before = new Map(lines().map(({ question, answer }) => [question, answer]));
    put(C, A, { ...B, id: 'new' });
    const { summary, asked } = await run();
    expect([summary.resumed, summary.records, asked]).toEqual([3, 3, false]);
    expect(lines().map((line) => [line.record, line.reference, line.id])).toEqual(
      expect.arrayContaining([
        [0, 'C', undefined],
        [1, 'A', undefined],
        [2, 'B', 'new'],
      ]),
    );
    for (const { question, answer } of lines()) expect(answer).toBe(before.get(question));
  });

  it('records that are added are asked; equal ones have a line each', async () => {
    await run();
    put(B, A, B, C);
    const { summary } = await run();
    expect(summary).toMatchObject({ records: 4, resumed: 3 });
    expect(
      lines()
        .map((line) => line.record)
        .sort(),
    ).toEqual([0, 1, 2, 3]);
  });

  it('a reference that was corrected counts as it is now', async () => {
    await run();
    put({ ...A, conversations: [A.conversations[0]!, turn('assistant', lines()[0]!.answer)] }, B, C);
    const { summary, asked } = await run();
    expect([summary.exact, summary.compared, asked]).toEqual([1, 3, false]);
  });

  it('a changed question or a removed record is refused; --ask_changed asks, and keeps the old answer', async () => {
    await run();
    const old = lines();
    put(A, record('b.bmp', 'Which one?', 'B'));
    const said = await refusal();
    expect(said).toContain('2 of them are to others');
    expect(said).toContain('record 1: its question is not in the data now');
    expect(said).toContain('--ask_changed true');
    expect(lines()).toEqual(old);
    const { summary, notices } = await run({ askChanged: true });
    expect(summary).toMatchObject({ records: 2, resumed: 1 });
    expect(notices).toContain('2 answers to records that changed since moved to');
    expect(lines().map((line) => line.question)).toEqual(['<image>\nWhat?', '<image>\nWhich one?']);
    const kept = readFileSync(`${output}.outdated.jsonl`, 'utf8').split('\n').slice(0, -1);
    expect(kept.map((line) => JSON.parse(line))).toEqual(old.slice(1));
  });

  it('a picture that changed under its name is refused and named, with the same size and time, too', async () => {
    const pictures = join(work, 'pictures');
    mkdirSync(pictures);
    for (const name of ['a.bmp', 'b.bmp', 'c.bmp']) copyFileSync(join(work, name), join(pictures, name));
    copyFileSync(data, join(pictures, 'data.json'));
    const dataPaths = [join(pictures, 'data.json')];
    await run({ dataPaths });
    replaceFiles(pictures, join(work), ['b.bmp']);
    expect((await run({ dataPaths })).asked).toBe(false);
    copyFileSync(join(work, 'a.bmp'), join(pictures, 'b.bmp'));
    expect(await refusal({ dataPaths })).toContain(
      `record 1: the picture ${join(pictures, 'b.bmp')} has another content`,
    );
    const { summary } = await run({ dataPaths, askChanged: true });
    expect(summary).toMatchObject({ records: 3, resumed: 2 });
    rmSync(join(pictures, 'b.bmp'));
    expect(await refusal({ dataPaths })).toContain('b.bmp');
    expect(await refusal({ dataPaths, onBadRecord: 'skip' })).toContain('record 1 cannot be asked now');
    expect((await run({ dataPaths, onBadRecord: 'skip', askChanged: true })).summary).toMatchObject({
      records: 2,
      bad: 1,
    });
  });

  it('pictures and data may lie elsewhere', async () => {
    await run();
    const elsewhere = join(work, 'elsewhere');
    mkdirSync(elsewhere);
    for (const name of ['a.bmp', 'b.bmp', 'c.bmp', 'data.json']) copyFileSync(join(work, name), join(elsewhere, name));
    expect((await run({ dataPaths: [join(elsewhere, 'data.json')] })).asked).toBe(false);
  });

  it('an answer that was drawn belongs to the number of its record', async () => {
    await run({ temperature: 1 });
    put(B, A, C);
    expect(await refusal({ temperature: 1 })).toContain('drawn answers depend on it');
    expect((await run({ temperature: 1, askChanged: true })).summary).toMatchObject({ records: 3, resumed: 1 });
  });
});

describe('a record that cannot be asked', () => {
  const broken = record('cut.bmp', 'Cut?', 'X');
  const cut = (): void => writeFileSync(join(work, 'cut.bmp'), readFileSync(join(work, 'a.bmp')).subarray(0, 700));

  it('ends the command before anything is written; skipped, it has a line with the error and is asked again', async () => {
    cut();
    put(A, broken, B);
    const said = await refusal();
    expect(said).toContain('record 1');
    expect(said).toContain('--on_bad_record skip');
    expect([existsSync(output), existsSync(`${output}.settings.json`), existsSync(`${output}.lock`)]).toEqual([
      false,
      false,
      false,
    ]);
    const first = await run({ onBadRecord: 'skip' });
    expect(first.summary).toMatchObject({ records: 2, bad: 1, left: 0, compared: 2 });
    expect(lines().find((line) => line.record === 1)!.error).toContain('700 bytes');
    const before = text();
    const again = await run({ onBadRecord: 'skip' });
    expect(again.summary).toMatchObject({ records: 2, resumed: 2, bad: 1 });
    expect([again.asked, text()]).toEqual([false, before]);
    copyFileSync(join(work, 'c.bmp'), join(work, 'cut.bmp'));
    const repaired = await run();
    expect(repaired.summary).toMatchObject({ records: 3, resumed: 2, bad: 0 });
    expect(repaired.notices).toContain('1 record that could not be asked before is asked again');
    expect(lines().map(({ record: number, error }) => [number, error])).toEqual([
      [0, undefined],
      [2, undefined],
      [1, undefined],
    ]);
  });

  it.each([
    ['a picture that is too thin', { image: 'thin.bmp', conversations: A.conversations }],
    ['no picture', { image: 'none.bmp', conversations: A.conversations }],
    ['a special token', { conversations: [turn('user', 'a <|im_end|> b'), turn('assistant', 'x')] }],
    ['no turns', { conversations: [] }],
    ['a tag without a picture', { image: { '<image_00>': 'a.bmp' }, conversations: [turn('user', '<image_01>?')] }],
  ])('%s', async (_, bad) => {
    put(A, bad);
    await refusal();
    expect((await run({ onBadRecord: 'skip' })).summary).toMatchObject({ records: 1, bad: 1 });
  });

  it('is an error if no other one is there', async () => {
    cut();
    put(broken, broken);
    expect(await refusal({ onBadRecord: 'skip' })).toContain('all 2 are bad');
    expect(existsSync(output)).toBe(false);
  });
});

describe('the output file', () => {
  it('is owned by one process, and by nobody afterwards', async () => {
    await run();
    const lock = takeLock(`${output}.lock`, { what: 'it' });
    expect(await refusal()).toContain(`in use by process ${process.pid}`);
    lock.release();
    await run();
    expect(existsSync(`${output}.lock`)).toBe(false);
  });

  it('is never one that others wrote', async () => {
    for (const content of ['notes\n', '{"record":0,"answer":"x"}\n', JSON.stringify([A])]) {
      writeFileSync(output, content);
      expect(await refusal()).toContain('what others wrote is never changed');
      expect(text()).toBe(content);
    }
    rmSync(output);
    writeFileSync(`${output}.settings.json`, '{"mine": 1}');
    expect(await refusal()).toContain('settings.json');
    expect(readFileSync(`${output}.settings.json`, 'utf8')).toBe('{"mine": 1}');
    expect(await refusal({ output: data })).toContain('what others wrote');
    expect(await refusal({ output: work })).toContain('a folder');
    expect(await refusal({ output: '/dev/null' })).toContain('a device');
    expect(await refusal({ output: join(data, 'x', 'out.jsonl') })).toContain('a folder that can be made');
  });

  it('may be empty, or a link', async () => {
    writeFileSync(output, '');
    symlinkSync(output, `${output}.link`);
    await run({ output: `${output}.link` });
    expect(lines()).toHaveLength(3);
    put(C, B, A);
    await run({ output: `${output}.link` });
    expect(lines().map((line) => line.record)).not.toEqual([0, 1, 2]);
    expect((await run()).asked).toBe(false);
  });

  it('is repaired after a kill at any byte of its last line, and complete without its last line break', async () => {
    await run();
    const whole = text();
    const starts = whole.lastIndexOf('\n', whole.length - 2) + 1;
    const answers = lines();
    for (const end of [starts, starts + 1, starts + 40, whole.length - 3]) {
      writeFileSync(output, whole.slice(0, end));
      const { summary, notices } = await run();
      expect(summary).toMatchObject({ records: 3, resumed: 2 });
      expect(notices.includes('cut off')).toBe(end > starts);
      expect(lines()).toEqual(answers);
    }
    writeFileSync(output, whole.slice(0, -1));
    expect((await run()).summary.resumed).toBe(3);
    expect(text()).toBe(whole);
  });

  it('that has a record twice counts it once, and says so', async () => {
    await run();
    const whole = text();
    appendFileSync(output, whole.split('\n').slice(0, 2).join('\n'));
    const { summary, notices } = await run();
    expect(summary).toMatchObject({ records: 3, resumed: 3, compared: 3 });
    expect(notices).toContain('has 2 records more than once (0, 1); each is counted once');
  });

  it('that something else changes meanwhile is left alone', async () => {
    const watched = new Reports();
    const task = watched.task.bind(watched);
    watched.task = (label, total) => {
      const report = task(label, total);
      if (label !== 'Answering') return report;
      const update = (done: number): number => {
        if (done === 1) renameSync(output, `${output}.away`);
        return report.update(done);
      };
      return { ...report, update };
    };
    const error = await run({}, undefined, watched).catch((reason: unknown) => reason);
    expect((error as UserError).format()).toContain('something else removed it');
    renameSync(`${output}.away`, output);
    expect((await run()).summary).toMatchObject({ records: 3, resumed: 1 });
  });

  it('of a stopped run says what is left', async () => {
    const abort = new AbortController();
    abort.abort();
    const { summary } = await run({}, abort.signal);
    expect(summary).toMatchObject({ records: 0, left: 3 });
    expect((await run()).summary).toMatchObject({ records: 3, left: 0 });
  });
});
