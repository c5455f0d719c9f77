import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findJsonMistake, UserError } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { afterEach, describe, expect, it } from 'vitest';
import { Dataset } from '../../src/data/dataset.js';
import { Random } from '../../src/data/random.js';

const folder = mkdtempSync(join(tmpdir(), 'files-'));
const fixtures = fileURLToPath(new URL('../fixtures/data/', import.meta.url));

let written = 0;
function file(content: string | Uint8Array): string {
  const path = join(folder, `${written++}.data`); // the name says nothing: the content decides
  writeFileSync(path, content);
  return path;
}

const record = (text: string) => ({
  conversations: [
    { role: 'user', content: text },
    { role: 'assistant', content: `${text}!` },
  ],
});
const opened: Dataset[] = [];

async function open(...paths: string[]): Promise<Dataset> {
  const data = await Dataset.open(paths, () => {});
  opened.push(data);
  return data;
}

afterEach(async () => {
  for (const data of opened.splice(0)) await data.close();
});

async function texts(data: Dataset): Promise<string[]> {
  const all: string[] = [];
  for (let i = 0; i < data.length; i++) all.push((await data.read(i)).conversations[0]!.content);
  return all;
}

async function refused(path: string, index?: number): Promise<UserError> {
  try {
    const data = await open(path);
    if (index !== undefined) await data.read(index);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).file).toBe(path);
    return error as UserError;
  }
  throw new Error(`${path} was accepted`);
}

describe('JSON arrays', () => {
  it('finds records whatever the layout, and the line on which each starts', async () => {
    const tricky = ['plain', 'brackets ]}[{ and "quotes"', 'back\\slash\\', '汉字 🎉', 'line\nbreak', ','];
    const path = file(JSON.stringify(tricky.map(record), undefined, 2));
    const data = await open(path);
    expect(await texts(data)).toEqual(tricky);
    expect([0, 1, 2].map((i) => data.place(i))).toEqual(
      [2, 14, 26].map((line, i) => ({ file: path, record: i, line })),
    );
    expect(await texts(await open(file(JSON.stringify(tricky.map(record)))))).toEqual(tricky);
    expect(
      await texts(
        await open(file(`\uFEFF \r\n[${JSON.stringify(record('a'))}\r\n,\t${JSON.stringify(record('b'))} ] \n`)),
      ),
    ).toEqual(['a', 'b']);
  });

  it('reads across the borders of its reading blocks', async () => {
    const long = Array.from({ length: 40 }, (_, i) => `${i} ${'\\"]},{['.repeat(20_000 + i)}`);
    expect(await texts(await open(file(JSON.stringify(long.map(record)))))).toEqual(long);
  });

  const one = JSON.stringify(record('a'));
  it.each([
    ['[', /Expected "\]" after 0 records but received the end of the file \(byte 1\)/, 1],
    [`[${one},\n${one}`, /Expected "\]" after 2 records/, 2],
    [`[${one},\n${one.slice(0, -1)}`, /record 1, which starts on line 2, to be closed .* 1 bracket is/, 2],
    [`[${one},\n{"conversations": [{"role": "us`, /a string is still open/, 2],
    [`[${one},\n]`, /Expected a record \{…\} after 1 records but received "\]"/, 2],
    [`[${one}\n${one}]`, /Expected "," or "\]" after 1 records but received "\{"/, 2],
    [`[${one}]\n${one}`, /the end of the file after the array's "\]" after 1 records but received "\{"/, 2],
    [`[${one}, 5]`, /Expected a record \{…\} .* received "5"/, 1],
    [`[["a"]]`, /Expected a record \{…\} or "\]" .* received "\["/, 1],
    [
      `[\n${one},\n{"a": [1}]`,
      /Expected "," or "\]" in the JSON of a record but received "\}\]" \(line 3, column 9/,
      3,
    ],
    ['[]', /at least one record .* an empty JSON array/, undefined],
  ])('refuses %s', async (content, message, line) => {
    const error = await refused(file(content));
    expect(error.message).toMatch(message);
    expect(error.line).toBe(line);
  });

  it.each([
    [`{"conversations": [{"role": "user", "content": 'x'}]}`, /a value .* received "'x'/, /double quotes/],
    ['{"id": None}', /received "None/, /null, true and false/],
    ['{"id": 1,}', /a key in double quotes .* received "\}"/, /comma/],
    ['{"id" 1}', /":" .* received "1}"/, /Repair/],
    ['{"id": "a\tb"}', /closing double quote/, /Repair/],
    ['{"id": 01}', /"," or "}" .* received "1}"/, /Repair/],
  ])('names the place where the record %s is not JSON', async (broken, message, cure) => {
    const error = await refused(file(`[${one},\n\n${broken}]`), 1);
    expect(error.message).toMatch(message);
    expect(error.cure).toMatch(cure);
    expect(error).toMatchObject({ record: 1, line: 3 });
  });
});

describe('JSON Lines', () => {
  it('reads one record per line, blank lines and a missing last newline allowed', async () => {
    const path = file(
      `${JSON.stringify(record('a'))}\r\n\n  ${JSON.stringify(record('汉 [{'))}\n\n${JSON.stringify(record('c'))}`,
    );
    const data = await open(path);
    expect(await texts(data)).toEqual(['a', '汉 [{', 'c']);
    expect(data.place(2)).toEqual({ file: path, record: 2, line: 5 });
    expect(data.files[0]!.describe()).toBe(
      'JSON Lines, 3 records, the first in the seed form (conversations with role and content)',
    );
  });

  it('says that a record has answers to compare, not a conversation', async () => {
    const pair = { prompt: 'q', chosen: 'a', rejected: 'b' };
    const described = async (value: object) => (await open(file(JSON.stringify(value)))).files[0]!.describe();
    expect(await described(pair)).toBe(
      'JSON Lines, 1 record in a form of answers to compare (without messages or conversations)',
    );
    expect(await described({ ...record('a'), rejected: 'b' })).toContain('in the seed form');
  });

  it('reads a single line as one record', async () => {
    expect(await texts(await open(file(JSON.stringify(record('a')))))).toEqual(['a']);
  });

  it('reads in constant memory what is larger than its blocks', async () => {
    const long = Array.from({ length: 30 }, (_, i) => `${i} ${'x'.repeat(100_000 + i)}`);
    expect(await texts(await open(file(long.map((text) => `${JSON.stringify(record(text))}\n`).join(''))))).toEqual(
      long,
    );
  });

  it('names record and line of a broken line', async () => {
    const error = await refused(file(`${JSON.stringify(record('a'))}\n\n{"conversations": [{"role": "user", }]}\n`), 1);
    expect(error).toMatchObject({ record: 1, line: 3 });
    expect(error.message).toBe(
      'Expected a key in double quotes in the JSON of a record but received "}]}" (line 3, column 37).',
    );
  });

  it.each([
    [`{"a": 1}\n[{"b": 2}]\n`, /object for line 2 but received "\[\{/, /Do not mix/],
    [`${JSON.stringify(record('a'))}\nhello\n`, /object for line 2 but received "hello"/, /one whole record/],
    [`${JSON.stringify(record('a'))},\n${JSON.stringify(record('b'))}\n`, /the end of the value .* received ","/, /./],
  ])('refuses %j', async (content, message, cure) => {
    const error = await refused(file(content), 0);
    expect(error.message).toMatch(message);
    expect(error.cure).toMatch(cure);
  });
});

describe('files that are no data', () => {
  it.each([
    ['', /is empty \(0 bytes\)/, /^undefined$/],
    [' \n\t ', /only white space/, /./],
    ['hello', /starts with "hello"/, /JSON array starts with \[/],
    ['id,image\n1,a.png\n', /starts with "id,image/, /Convert/],
    [
      JSON.stringify({ data: [record('a')], version: 1 }, undefined, 1),
      /one JSON object with the keys data, version/,
      /list under "data"/,
    ],
    [JSON.stringify(record('a'), undefined, 1), /one JSON object with the keys conversations/, /square brackets/],
    ['{}', /one JSON object with the keys /, /./],
    [Buffer.from([0x1f, 0x8b, 8, 0, 0]), /a gzip file/, /gunzip/],
    [Buffer.from('PK\u0003\u0004zip'), /a zip file/, /unzip/],
    [Buffer.from(`\uFEFF[${JSON.stringify(record('a'))}]`, 'utf16le'), /UTF-16/, /UTF-8/],
    [Buffer.from('PAR1 no footer'), /a complete parquet file but reading it failed/, /cut off/],
  ])('refuses %j', async (content, message, cure) => {
    const error = await refused(file(content));
    expect(error.message).toMatch(message);
    expect(String(error.cure)).toMatch(cure);
  });

  it('refuses what is missing, a folder, or not UTF-8', async () => {
    expect((await refused(join(folder, 'gone.json'))).message).toMatch(/there is no .*gone.json/);
    expect((await refused(folder)).message).toMatch(/received a folder/);
    const latin1 = Buffer.from(`[${JSON.stringify(record('caf\u00e9'))}]`, 'latin1');
    expect((await refused(file(latin1))).message).toMatch(/Expected UTF-8 text for a record/);
    await expect(open()).rejects.toThrow(/at least one data file/);
  });

  it('reads records of all forms in one file, each in its own', async () => {
    const llava = {
      conversations: [
        { from: 'human', value: 'b' },
        { from: 'gpt', value: 'B' },
      ],
    };
    const messages = { messages: record('c').conversations, conversations: [], images: [null] };
    const all = [record('a'), llava, messages].map((one) => JSON.stringify(one));
    expect(await texts(await open(file(`[${all.join(',')}]`)))).toEqual(['a', 'b', 'c']);
    expect(await texts(await open(file(all.join('\n'))))).toEqual(['a', 'b', 'c']);
  });

  it('refuses one that changed since it was opened', async () => {
    const path = file(JSON.stringify([record('a')]));
    const data = await open(path);
    writeFileSync(path, JSON.stringify([record('longer than before')]));
    await expect(data.read(0)).rejects.toThrow(/the data file as when it was opened .* changed meanwhile/);
  });
});

describe('parquet', () => {
  it('reads messages with embedded images over several row groups (snappy)', async () => {
    const data = await open(join(fixtures, 'messages.snappy.parquet'));
    expect(data.length).toBe(7);
    for (const i of [6, 0, 3, 2, 5]) {
      const { id, image, conversations } = await data.read(i);
      expect({ id, conversations }).toEqual({
        id: String(i),
        conversations: [
          { role: 'user', content: `<image>Question ${i}?` },
          { role: 'assistant', content: `Answer ${i}.` },
        ],
      });
      const { data: pixels, info } = await sharp(image as Uint8Array)
        .raw()
        .toBuffer({ resolveWithObject: true });
      expect([info.width, info.height, pixels[0]]).toEqual([12, 8, i * 30]);
    }
  });

  it('reads the LLaVA form (zstd) and turns as JSON text (gzip)', async () => {
    const llava = await open(join(fixtures, 'llava.zstd.parquet'));
    expect((await llava.read(2)).conversations).toEqual([
      { role: 'user', content: '<image>\nQ2' },
      { role: 'assistant', content: 'A2' },
    ]);
    const text = await open(join(fixtures, 'seed-json-text.gzip.parquet'));
    expect((await text.read(0)).image).toBeInstanceOf(Uint8Array);
    expect(await text.read(1)).toEqual({
      id: 'b',
      image: undefined,
      conversations: [
        { role: 'user', content: 'Text?' },
        { role: 'assistant', content: 'Only.' },
      ],
    });
  });

  it('finds texts that were cut inside a character', async () => {
    const data = await open(join(fixtures, 'half-character.snappy.parquet'));
    const said = await texts(data);
    expect(said.map((text) => text.isWellFormed())).toEqual([false, true, true]);
    expect(said.slice(1)).toEqual(['😀 is whole', 'lost \ufffd']);
    const turns = await open(join(fixtures, 'other-picture-keys.snappy.parquet'));
    await expect(turns.read(1)).rejects.toThrow(/image_path/);
  });

  it('refuses a file without the columns of a record', async () => {
    const error = await refused(join(fixtures, 'wrong-columns.parquet'));
    expect(error.message).toMatch(/a column conversations or messages .* received the columns question, answer/);
    expect(error.cure).toMatch(/Rename/);
  });
});

describe('several files', () => {
  it('are one list, also after the trip to another thread', async () => {
    const data = await open(
      file(JSON.stringify([record('a'), record('b')])),
      file(`${JSON.stringify(record('c'))}\n`),
      join(fixtures, 'llava.zstd.parquet'),
    );
    expect(data.sizes).toEqual([2, 1, 3]);
    const copy = Dataset.restore(structuredClone(data.index), () => {});
    opened.push(copy);
    expect(await texts(copy)).toEqual(['a', 'b', 'c', '<image>\nQ0', '<image>\nQ1', '<image>\nQ2']);
    expect(copy.fingerprint).toBe(data.fingerprint);
    expect(copy.place(2)).toMatchObject({ record: 0, line: 1 });
  });

  it('have a fingerprint that follows their content and order', async () => {
    const [x, y, z] = ['x', 'y', 'z'].map((text) => file(JSON.stringify([record(text)])));
    const prints = [[x, y], [y, x], [x, z], [x]].map(async (paths) => (await open(...(paths as string[]))).fingerprint);
    expect(new Set(await Promise.all(prints)).size).toBe(4);
    expect((await open(x!, y!)).fingerprint).toBe(await prints[0]);
  });
});

describe('findJsonMistake', () => {
  it('agrees with JSON.parse on mutated texts', () => {
    const text = JSON.stringify({ a: [1, -2.5e3, true, null, 'x"\\\n'], b: { c: {}, d: [] } });
    const random = new Random(7);
    let broken = 0;
    for (let i = 0; i < 20_000; i++) {
      const at = random.below(text.length);
      const mutated = text.slice(0, at) + '{}[]",:0-e.\\tn '[random.below(16)] + text.slice(at + random.below(3));
      let valid = true;
      try {
        JSON.parse(mutated);
      } catch {
        valid = false;
        broken++;
      }
      expect(findJsonMistake(mutated) === undefined, mutated).toBe(valid);
    }
    expect(broken).toBeGreaterThan(5_000);
  });
});
