/** Pictures of records: data: addresses and base64 in every form, paths that are written in another way, and what is no picture. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decodeImage } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Dataset } from '../../src/data/dataset.js';
import { ImageResolver } from '../../src/data/images.js';
import { imagesOf } from '../../src/data/record.js';

let folder: string;
let png: Buffer;
let notices: string[];
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'images-'));
  png = await sharp({ create: { width: 9, height: 7, channels: 3, background: '#123456' } })
    .png()
    .toBuffer();
  mkdirSync(join(folder, 'images'));
  for (const name of ['a.png', 'b c.png', 'caf\u00e9.png']) writeFileSync(join(folder, 'images', name), png);
});
afterAll(() => rmSync(folder, { recursive: true }));

const place = { file: 'data.json', record: 3 };
function resolver(): ImageResolver {
  notices = [];
  return new ImageResolver(join(folder, 'data.json'), (message) => notices.push(message));
}
const resolve = (value: unknown) => resolver().resolve(value, 'the key image', place);
function refused(value: unknown): UserError {
  try {
    resolve(value);
  } catch (error) {
    if (error instanceof UserError) return error;
    throw error;
  }
  throw new Error('nothing was refused');
}

/** Ways to write the same picture as text. */
const WRITTEN: Readonly<Record<string, (base64: string) => string>> = {
  'data:image/png;base64': (base64) => `data:image/png;base64,${base64}`,
  'data:image;base64': (base64) => `data:image;base64,${base64}`,
  'a charset': (base64) => `data:image/png;charset=utf-8;base64,${base64}`,
  'another type': (base64) => `data:application/octet-stream;base64,${base64}`,
  'no type': (base64) => `data:;base64,${base64}`,
  'percent-encoded base64': (base64) => `data:image/png;base64,${encodeURIComponent(base64)}`,
  'percent-encoded bytes': (base64) =>
    `data:image/png,${[...Buffer.from(base64, 'base64')].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')}`,
  'the alphabet of addresses': (base64) =>
    `data:image/png;base64,${base64.replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')}`,
  'lines of base64': (base64) => `data:image/png;base64,${base64.replace(/.{60}/g, '$&\n')}`,
  'bare base64': (base64) => base64,
  'upper case': (base64) => `DATA:IMAGE/PNG;BASE64,${base64}`,
};

describe('pictures in text', () => {
  it.each(Object.keys(WRITTEN))('%s is read: as text, in an object, and as bytes of text', (way) => {
    const text = WRITTEN[way]!(png.toString('base64'));
    for (const value of [text, { bytes: text }, { bytes: Buffer.from(text) }, { path: text }, Buffer.from(text)])
      expect(Buffer.from(resolve(value) as Uint8Array).equals(png)).toBe(true);
  });

  it.each(Object.keys(WRITTEN))('%s is read in each form of records', async (way) => {
    const text = WRITTEN[way]!(png.toString('base64'));
    const answer = { role: 'assistant', content: 'A' };
    const asked = [{ role: 'user', content: '<image>\nQ' }, answer];
    const forms = [
      { image: text, conversations: asked },
      { image: { '<image_00>': text }, conversations: [{ role: 'user', content: '<image_00> Q' }, answer] },
      { messages: asked, images: [text] },
      { messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url: text } }] }, answer] },
      { messages: [{ role: 'user', content: [{ type: 'image', image: text }] }, answer] },
      {
        image: text,
        conversations: [
          { from: 'human', value: '<image>\nQ' },
          { from: 'gpt', value: 'A' },
        ],
      },
    ];
    for (const [i, form] of forms.entries()) {
      const file = join(folder, `form-${i}.json`);
      writeFileSync(file, JSON.stringify([form]));
      const data = await Dataset.open([file], () => {});
      const [image] = imagesOf(await data.read(0));
      expect(await decodeImage(image!, { maxImagePixels: 1e6 })).toMatchObject({ width: 9, height: 7 });
      await data.close();
    }
  });

  it.each([
    ['data:image/png;base64,', 'which has no data'],
    ['data:image/png;base64', 'which has no comma'],
    ['data:image/png;base64,   ', 'which has no data'],
    ['data:image/png;base64,iVBORw*0KGgo=', 'received "*" as character 7'],
    ['data:image/png;base64,iVBOR汉', 'received "汉" as character 6'],
    ['data:image/png;base64,iVBO\u200bRw0K', 'received "\\u200b", a zero width space as character 5'],
    ['data:image/png;base64,iV==ORw0', 'received "=" as character 3'],
    ['data:image/png;base64,iVBORw0KG', 'which are cut off'],
  ])('%j is refused with the reason', (text, reason) => {
    const error = refused(text);
    expect(error.message).toContain(reason);
    expect(error).toMatchObject(place);
    expect(error.cure).toContain('data:image/png;base64,');
  });

  it('of any length is shown with at most 80 characters', () => {
    for (const text of [`${png.toString('base64').padEnd(1e6, 'A')}!`, 'x'.repeat(1e6), `data:${'x'.repeat(1e6)}`])
      expect(refused(text).format().length).toBeLessThan(600);
  });
});

describe('paths', () => {
  it.each([
    ['images/a.png ', 'Did you mean images/a.png (the path ends in a space)?'],
    ['images/a.png\n', 'Did you mean images/a.png (the path ends in a line break)?'],
    ['images/\u200ba.png', 'Did you mean images/a.png (the path has characters that cannot be seen)?'],
    ['Images/a.PNG', 'Did you mean images/a.png (upper and lower case differ)?'],
    ['file://images/a.png', 'Did you mean images/a.png (the path starts with file:)?'],
    ['C:\\x\\images\\a.png', 'Did you mean images/a.png (the path is a Windows path; this is its end)?'],
    ['C:\\x\\z.png', 'a Windows path with the drive letter C:'],
    ['\\\\nas\\x\\z.png', 'a Windows path of a server'],
    ['images/z.png', "relative to the data file's folder"],
  ])('%j: %s', (path, cure) => {
    const error = refused(path);
    expect(error.cure).toContain(cure);
    expect(error.message).toContain(`the file ${JSON.stringify(path).replace('\u200b', '\\u200b')} for the key image`);
  });

  it.each([
    ['images\\a.png', 'a.png', 'with \\ for /'],
    ['images/b%20c.png', 'b c.png', 'percent-encoded'],
    ['images/cafe\u0301.png', 'caf\u00e9.png', 'in another Unicode normalisation'],
  ])('%j is read, which is said once', (path, name, how) => {
    const one = resolver();
    for (let i = 0; i < 3; i++) expect(one.resolve(path, 'the key image', place)).toBe(join(folder, 'images', name));
    expect(notices).toEqual([expect.stringContaining(how)]);
  });
});

describe('records that are deep', () => {
  const deep = (open: string, inner: string, close: string): string =>
    `${open.repeat(50_000)}${inner}${close.repeat(50_000)}`;
  const turns = '"conversations":[{"role":"user","content":"Q"},{"role":"assistant","content":"A"}]';
  it.each([
    ['an id', `"id":${deep('[', '', ']')},${turns}`, /text or a number for the key id/],
    ['an id of objects', `"id":${deep('{"a":', '1', '}')},${turns}`, /text or a number for the key id/],
    ['a picture', `"image":${deep('[', '', ']')},${turns}`, /key image/],
    ['content', `"conversations":[{"role":"user","content":${deep('[', '1', ']')}}]`, /content/],
    ['a role', `"conversations":[{"role":${deep('[', '', ']')},"content":"Q"}]`, /role/],
    ['a turn', `"conversations":${deep('[', '', ']')}`, /turn/],
    ['a mistake', `"meta":${deep('[', 'x', ']')},${turns}`, /received "x\]/],
    ['another medium', `"video":${deep('[', '1', ']')},${turns}`, /video/],
  ])('%s is an error with its place', async (_, record, message) => {
    const file = join(folder, 'deep.json');
    writeFileSync(file, `[{${record}}]`);
    const error = await Dataset.open([file], () => {})
      .then((data) => data.read(0))
      .catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(UserError);
    expect((error as UserError).message).toMatch(message);
    expect((error as UserError).format().length).toBeLessThan(900);
    expect(error).toMatchObject({ file, line: 1, record: 0 });
  });

  it('in a key that is not read changes nothing', async () => {
    const file = join(folder, 'deep.json');
    writeFileSync(file, `[{"meta":${deep('[', '', ']')},${turns}}]`);
    const data = await Dataset.open([file], () => {});
    expect((await data.read(0)).conversations).toHaveLength(2);
    await data.close();
  });
});
