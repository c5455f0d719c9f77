/** Keys that belong to a conversation: read, refused by name, or counted. And keys that are free. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { Dataset } from '../../src/data/dataset.js';
import { recordsAt } from '../support/records.js';

const folder = mkdtempSync(join(tmpdir(), 'keys-'));
for (const name of ['a.png', 'b.png']) writeFileSync(join(folder, name), 'not decoded here');
const file = join(folder, 'data.json');
const place = { file, record: 3, line: 4 };
const a = join(folder, 'a.png');
const parquet = (name: string) => fileURLToPath(new URL(`../fixtures/data/${name}`, import.meta.url));

type Keys = Record<string, unknown>;

/** A question and an answer in each form; the keys are for the record, the question and the answer. */
const FORMS: Readonly<Record<string, (record: Keys, question?: Keys, answer?: Keys) => Keys>> = {
  seed: (record, question, answer) => ({
    conversations: [
      { role: 'user', content: 'Q', ...question },
      { role: 'assistant', content: 'A', ...answer },
    ],
    ...record,
  }),
  messages: (record, question, answer) => ({
    messages: [
      { role: 'user', content: 'Q', ...question },
      { role: 'assistant', content: 'A', ...answer },
    ],
    ...record,
  }),
  llava: (record, question, answer) => ({
    conversations: [
      { from: 'human', value: 'Q', ...question },
      { from: 'gpt', value: 'A', ...answer },
    ],
    ...record,
  }),
};

const { normalize, refused } = recordsAt(place, { cure: expect.stringMatching(/\w/) as string });

describe.each(Object.keys(FORMS))('the %s form', (form) => {
  const made = FORMS[form]!;

  it('has the key system as its system turn', () => {
    const { conversations } = normalize(made({ system: 'Be brief.' }));
    expect(conversations.map(({ role, content }) => [role, content])).toEqual([
      ['system', 'Be brief.'],
      ['user', 'Q'],
      ['assistant', 'A'],
    ]);
    for (const system of [null, '', undefined]) expect(normalize(made({ system })).conversations).toHaveLength(2);
    expect(refused(made({ system: 5 })).message).toMatch(/text for the key system but received 5/);
  });

  it.each([
    ['tools', '[{"name":"zoom"}]'],
    ['tools', [{ name: 'zoom' }]],
    ['functions', [{ name: 'zoom' }]],
    ['history', [['Hello', 'Hi']]],
    ['audios', ['a.wav']],
    ['audio', 'a.wav'],
    ['rejected_answer', 'B'],
    ['system_prompt', 'Be brief.'],
    ['System', 'Be brief.'],
    ['lossMask', [0, 1]],
  ])('refuses %s of a record by name', (key, value) => {
    const error = refused(made({ [key]: value }));
    expect(error.message).toContain(key);
    expect(error.key).toBe(key);
  });

  it.each([
    ['tool_calls', [{ function: { name: 'weather' } }]],
    ['function_call', { name: 'weather' }],
    ['reasoning', 'It has six faces.'],
    ['thinking', 'It has six faces.'],
    ['images', ['a.png']],
    ['image', 'a.png'],
    ['image_path', 'a.png'],
    ['picture_file', 'x'],
    ['attachment', 'b.jpeg'],
  ])('refuses %s of a turn by name', (key, value) => {
    const error = refused(made({}, {}, { [key]: value }));
    expect(error.message).toContain(key);
    expect(error).toMatchObject({ turn: 1, key });
  });

  it('refuses tool_calls before the empty content beside them', () => {
    const content = { content: '', value: null, tool_calls: [{ id: 'c1' }] };
    expect(refused(FORMS.seed!({}, {}, content)).message).toMatch(/without the key tool_calls/);
  });

  it('takes them when they are empty, and keys without meaning', () => {
    const empty = { tools: null, history: [], videos: [], objects: { ref: [], bbox: [] }, functions: '[]', chosen: '' };
    const free = { source: 'a.png', score: 0.5, category: 'x', meta: { tools: 1 }, image_id: 7, image_size: [1, 2] };
    const turn = { tool_calls: [], reasoning_content: null, name: 'x', timestamp: 1 };
    const record = normalize(made({ ...empty, ...free, Image: null, imgs: [null] }, turn, turn));
    expect(record.conversations).toEqual(normalize(made({})).conversations);
    expect(record.unread).toBeUndefined();
  });

  it('refuses objects that fill placeholders, and counts others', () => {
    const text = form === 'llava' ? { value: 'Find <ref-object>' } : { content: 'Find <ref-object>' };
    const objects = { ref: ['box'], bbox: [[1, 2, 3, 4]] };
    expect(refused(made({ objects }, text)).key).toBe('objects');
    expect(normalize(made({ objects })).unread).toEqual(['objects']);
  });

  it.each([
    'Image',
    'IMAGES',
    'img',
    'imgs',
    'image_path',
    'imagePath',
    'image-url',
    'image_file',
    'images_list',
    'picture',
    'photos',
    'image_b64',
  ])('refuses pictures under %s and names the right key', (key) => {
    expect(refused(made({ [key]: 'a.png' }))).toMatchObject({
      message: `Expected the key image for the pictures of a record but received ${key}: "a.png".`,
      cure: `Rename ${key} to image.`,
      key,
    });
    expect(refused(made({ [key]: ['a.png'] })).cure).toBe(`Rename ${key} to images.`);
  });

  it.each([
    ['file_name', 'x/a.PNG'],
    ['screenshot', 'https://x.org/a.jpg'],
    ['scans', ['a.webp']],
    ['blob', { bytes: new Uint8Array(Buffer.from('\x89PNG\r\n', 'latin1')) }],
    ['url', 'data:image/png;base64,AAAA'],
  ])('refuses a picture under %s', (key, value) => {
    expect(refused(made({ [key]: value })).message).toMatch(new RegExp(`for the pictures of a record .* ${key}: `));
  });

  it('counts another name of a picture beside pictures, and leaves other keys free', () => {
    const text = form === 'llava' ? { value: '<image>Q' } : { content: '<image>Q' };
    const record = normalize(made({ image: 'a.png', image_url: 'http://x.org/a.png', file_name: 'a.png' }, text));
    expect(record.image).toBe(a);
    expect(record.unread).toEqual(['image_url']);
    expect(normalize(made({ images: ['a.png'] }, text)).image).toBe(a);
  });
});

describe('the seed form', () => {
  it('takes a list of images where pictures and places agree', () => {
    for (const key of ['image', 'images']) {
      expect(normalize(FORMS.seed!({ [key]: ['a.png'] })).image).toBe(a);
      const two = normalize(FORMS.seed!({ [key]: ['a.png', 'b.png'] }, { content: '<image><image>Q' }));
      expect(two.image).toEqual({ '<image_00>': a, '<image_01>': join(folder, 'b.png') });
      expect(two.conversations[0]!.content).toBe('<image_00><image_01>Q');
      expect(refused(FORMS.seed!({ [key]: ['a.png', 'b.png'] })).message).toMatch(/for each of the 2 images .* 0 of/);
      expect(refused(FORMS.seed!({ [key]: ['a.png', 'b.png'] }, { content: '<image_00>' })).message).toMatch(
        /received <image_00>/,
      );
    }
  });
});

it('takes what is nested deeply where it means nothing, and refuses it by name elsewhere', () => {
  const deep = JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`) as unknown;
  expect(normalize(FORMS.seed!({ meta: deep })).conversations).toHaveLength(2);
  for (const key of ['tools', 'image_path', 'loss_mask', 'mask', 'history', 'image', 'images', 'system', 'objects']) {
    const text = { content: 'Find <bbox>' };
    expect(refused(FORMS.seed!({ [key]: deep }, text)).message, key).toMatch(/^Expected .* but received /);
  }
  for (const key of ['content', 'role', 'tool_calls', 'weight', 'images']) {
    expect(refused(FORMS.messages!({}, { [key]: deep })).message, key).toMatch(/^Expected .* but received /);
  }
  expect(refused(FORMS.seed!({ id: deep })).message).toMatch(/^Expected text or a number for the key id but received /);
});

it.each([
  [{ type: 'image', image_path: 'a.png' }, 'image_path'],
  [{ type: 'image', source: { type: 'base64', data: 'AAAA' } }, 'source'],
  [{ type: 'text', text: 'Q', imgs: ['a.png'] }, 'imgs'],
  [{ type: 'image', audio: 'a.wav' }, 'audio'],
])('refuses the part %j by the name of its key', (part, key) => {
  const error = refused({ ...FORMS.messages!({}, { content: [part] }), images: ['b.png'] });
  expect(error).toMatchObject({ turn: 0, key });
  expect(error.message).toContain(key);
});

it('names the key that nearly holds the turns', () => {
  expect(refused({ Conversations: [{ role: 'user', content: 'Q' }] }).cure).toMatch(/^Rename Conversations to/);
});

it('finds the keys in parquet, where others are not read beside pictures', async () => {
  const data = await Dataset.open([parquet('other-picture-keys.snappy.parquet')], () => {});
  await expect(data.read(0)).rejects.toThrow('Expected the key image for the pictures of a record but received scan');
  await expect(data.read(1)).rejects.toThrow(/received image_path: "a.png"/);
  await data.close();
});
