import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ImageResolver } from '../../src/data/images.js';
import { recordsAt } from '../support/records.js';

const folder = mkdtempSync(join(tmpdir(), 'forms-'));
mkdirSync(join(folder, 'images'));
for (const name of ['a.png', 'b.png', 'images/c.png']) writeFileSync(join(folder, name), 'not decoded here');
const file = join(folder, 'data.json');
const place = { file, record: 3, line: 4 };
const a = join(folder, 'a.png');
const b = join(folder, 'b.png');

const { normalize, refused } = recordsAt(place);

const qa = [
  { role: 'user', content: 'Q' },
  { role: 'assistant', content: 'A' },
];
const llavaQa = [
  { from: 'human', value: '<image>\nQ' },
  { from: 'gpt', value: 'A' },
];

describe('videos', () => {
  const frames = ['a.png', 'b.png'];
  const said = [{ role: 'user', content: '<video>\nQ' }, qa[1]!];

  it.each([
    ['one in the seed form', { video: 'a.png', conversations: qa }, a],
    [
      'by placeholder',
      { video: { '<video_00>': 'a.png', '<video_01>': frames }, conversations: qa },
      { '<video_00>': a, '<video_01>': [a, b] },
    ],
    ['a folder', { video: 'images', conversations: qa }, join(folder, 'images')],
    ['a list of one', { videos: ['a.png'], conversations: qa }, a],
    ['in messages', { messages: said, videos: ['a.png'] }, a],
    ['as frames', { messages: said, videos: [frames] }, [a, b]],
    [
      'in LLaVA',
      {
        conversations: [
          { from: 'human', value: '<video>\nQ' },
          { from: 'gpt', value: 'A' },
        ],
        video: 'a.png',
      },
      a,
    ],
    ['as parts', { messages: [{ role: 'user', content: [{ type: 'video', video: 'a.png' }] }, qa[1]] }, a],
    [
      'as an address',
      { messages: [{ role: 'user', content: [{ type: 'video_url', video_url: { url: 'a.png' } }] }, qa[1]] },
      a,
    ],
  ])('are read, %s', (_, raw, video) => {
    const { image, ...record } = normalize(raw);
    expect(image).toBeUndefined();
    expect(record.video).toEqual(video);
  });

  it('stand beside images, in the order of the text', () => {
    const content = '<video>One.<image>Two.<video>';
    const record = normalize({
      messages: [{ role: 'user', content }, qa[1]],
      images: ['a.png'],
      videos: ['a.png', frames],
    });
    expect(record).toMatchObject({ image: a, video: { '<video_00>': a, '<video_01>': [a, b] } });
    expect(record.conversations[0]!.content).toBe('<video_00>One.<image>Two.<video_01>');
  });

  it('leave a thought with its answer', () => {
    const messages = [qa[0], { ...qa[1], reasoning_content: 'Hm.' }];
    expect(normalize({ messages }).conversations[1]).toEqual({ role: 'assistant', content: 'A', thought: 'Hm.' });
  });
});

describe('the seed form', () => {
  it('takes one image, images by placeholder, or none', () => {
    expect(normalize({ id: 7, image: 'a.png', conversations: qa })).toEqual({ id: '7', image: a, conversations: qa });
    const image = { '<image_00>': 'a.png', '<image_01>': 'images/c.png' };
    expect(normalize({ image, conversations: qa }).image).toEqual({
      '<image_00>': a,
      '<image_01>': join(folder, 'images/c.png'),
    });
    for (const image of [undefined, null, {}]) expect(normalize({ image, conversations: qa }).image).toBeUndefined();
  });

  it('keeps a system turn in front and ignores other keys of a turn', () => {
    const turns = [{ role: 'system', content: 'S' }, ...qa.map((turn) => ({ ...turn, name: 'x' }))];
    expect(normalize({ conversations: turns }).conversations).toEqual([{ role: 'system', content: 'S' }, ...qa]);
  });

  it.each([
    [{ image: 5, conversations: qa }, /image but received 5/],
    [{ image: '', conversations: qa }, /path of an image/],
    [{ images: ['a.png', 'b.png'], conversations: qa }, /one <image> in the text for each of the 2 images/],
    [{ image: 'a.png', conversations: [] }, /empty list/],
    [{ image: 'a.png', conversations: 'hello' }, /a list of turns .* received "hello"/],
    [{ image: 'a.png' }, /conversations or messages .* the keys image/],
    [{}, /an empty object/],
    [[qa], /an object for a record/],
    ['text', /an object for a record but received "text"/],
    [null, /an object for a record but received null/],
    [{ conversations: qa, messages: qa }, /received both/],
    [{ conversations: qa, audio: 'a.wav' }, /a record without the key audio,/],
    [{ conversations: qa, video: 5 }, /an object of placeholders and paths for the key video but received 5/],
    [{ conversations: qa, video: 'gone.mp4' }, /the file "gone.mp4" for the key video but there is none/],
    [{ conversations: qa, video: 'http://x.org/a.mp4' }, /a video file for the key video/],
    [{ conversations: qa, video: ['a.png', ['b.png', 5]] }, /the path of a video for frame 1 of video 1/],
  ])('refuses %j', (raw, message) => {
    expect(refused(raw).message).toMatch(message);
  });

  it.each([
    ['bot', 1, /user or assistant .* received "bot"/],
    ['System', 0, /received "System"/],
    ['system', 1, /user or assistant .* received "system"/],
    [undefined, 1, /received nothing/],
    ['constructor', 0, /received "constructor"/],
  ])('refuses the role %s in turn %i', (role, turn, message) => {
    const error = refused({ conversations: qa.map((value, i) => (i === turn ? { ...value, role } : value)) });
    expect(error.message).toMatch(message);
    expect(error.turn).toBe(turn);
  });

  it.each([
    ['bot', 'Rename "bot" to "assistant".'],
    ['USER', 'Rename "USER" to "user".'],
    ['System', 'Rename "System" to "system".'],
    ['tool', 'Rename the role, or put what it says into a user turn.'],
  ])('proposes the right name for the role %s', (role, cure) => {
    expect(refused({ conversations: [{ role, content: 'Q' }, qa[1]] }).cure).toBe(cure);
    const turns = [
      { from: role, value: 'Q' },
      { from: 'gpt', value: 'A' },
    ];
    expect(refused({ conversations: turns }).cure).toBe(cure);
  });

  it('takes human and gpt as roles, too', () => {
    const turns = [
      { role: 'human', content: 'Q' },
      { role: 'gpt', content: 'A' },
    ];
    expect(normalize({ conversations: turns }).conversations).toEqual(qa);
    expect(normalize({ messages: turns }).conversations).toEqual(qa);
  });

  it.each([[null], [['a', 'b']], [5], [undefined]])('refuses the content %j', (content) => {
    const error = refused({ conversations: [qa[0], { role: 'assistant', content }] });
    expect(error.message).toMatch(/^Expected text for the content of a turn but received/);
    expect(error.turn).toBe(1);
  });
});

describe('the messages form', () => {
  it('gives the images of the list to the placeholders in order', () => {
    const messages = [
      { role: 'user', content: '<image>\n<image>Which is red?' },
      { role: 'assistant', content: 'A' },
    ];
    expect(normalize({ messages, images: ['b.png', 'a.png'] })).toEqual({
      id: undefined,
      image: { '<image_00>': b, '<image_01>': a },
      conversations: [{ role: 'user', content: '<image_00>\n<image_01>Which is red?' }, qa[1]].map((turn) => ({
        ...turn,
        ...(turn === qa[1] ? { content: 'A' } : {}),
      })),
    });
  });

  it('makes a single image of the first user turn the seed form of one image', () => {
    const messages = [
      { role: 'system', content: 'S' },
      { role: 'user', content: '<image>\nQ' },
      { role: 'assistant', content: 'A' },
    ];
    expect(normalize({ messages, images: ['a.png'] })).toEqual({ id: undefined, image: a, conversations: messages });
  });

  it('keeps the turn of an image that comes later', () => {
    const messages = [...qa, { role: 'user', content: 'And <image>?' }, { role: 'assistant', content: 'B' }];
    const record = normalize({ messages, images: 'a.png' });
    expect(record.image).toEqual({ '<image_00>': a });
    expect(record.conversations[2]).toEqual({ role: 'user', content: 'And <image_00>?' });
  });

  it('reads parts with images of their own, by path, file: and data: address', () => {
    const bytes = Buffer.from([1, 2, 3]);
    const content = [
      { type: 'image', image: 'a.png' },
      { type: 'image_url', image_url: { url: `data:image/png;base64,${bytes.toString('base64')}` } },
      { type: 'image', path: `file://${b}` },
      { type: 'text', text: 'Which?' },
    ];
    const record = normalize({ messages: [{ role: 'user', content }, qa[1]] });
    expect(record.image).toEqual({ '<image_00>': a, '<image_01>': new Uint8Array(bytes), '<image_02>': b });
    expect(record.conversations[0]!.content).toBe('<image_00><image_01><image_02>Which?');
  });

  it('reads parts that take from the list, and a system prompt beside the turns', () => {
    const content = [
      { type: 'image', text: null },
      { type: 'text', text: 'Q' },
    ];
    expect(
      normalize({
        system: 'S',
        messages: [{ role: 'user', content }, qa[1]],
        images: [{ bytes: null, path: 'a.png' }],
      }),
    ).toEqual({
      id: undefined,
      image: a,
      conversations: [{ role: 'system', content: 'S' }, { role: 'user', content: '<image>Q' }, qa[1]],
      systemKey: true,
    });
  });

  it('takes text-only records', () => {
    for (const images of [undefined, null, []])
      expect(normalize({ messages: qa, images })).toEqual({ id: undefined, image: undefined, conversations: qa });
  });

  it.each([
    [{ messages: qa, images: ['a.png'] }, /one <image> in the text for each of the 1 images .* received 0/],
    [
      { messages: [{ role: 'user', content: '<image><image>' }, qa[1]], images: ['a.png'] },
      /for every <image> .* received 1 image for at least 2/,
    ],
    [{ messages: [{ role: 'user', content: '<image>' }, qa[1]] }, /received 0 images/],
    [{ messages: [{ role: 'user', content: '<image_00>' }, qa[1]], images: ['a.png'] }, /received <image_00>/],
    [{ messages: qa, image: 'a.png', images: ['a.png'] }, /received both/],
    [
      { messages: [{ role: 'user', content: [{ type: 'video', video: 'a.mp4' }] }, qa[1]] },
      /the file "a.mp4" for part 0/,
    ],
    [{ messages: qa, videos: ['a.png'] }, /one <video> in the text for each of the 1 videos .* received 0/],
    [
      { messages: [{ role: 'user', content: '<video><video>' }, qa[1]], videos: ['a.png'] },
      /for every <video> .* received 1 video for at least 2/,
    ],
    [{ messages: [{ ...qa[0], reasoning_content: 'Hm' }, qa[1]] }, /a thought before an answer of the assistant/],
    [{ messages: [{ role: 'user', content: ['Q'] }, qa[1]] }, /an object with type/],
    [{ messages: [{ role: 'user', content: [{ type: 'text', text: 5 }] }, qa[1]] }, /text .* received 5/],
    [
      {
        messages: [{ role: 'user', content: [{ type: 'image', image: 'a.png' }, { type: 'image' }] }, qa[1]],
        images: ['b.png'],
      },
      /received both/,
    ],
    [{ messages: [{ role: 'system', content: 'S' }, ...qa], system: 'T' }, /one system prompt/],
    [{ messages: llavaQa }, /role and content for the turns of messages/],
    [{ messages: [{ role: 'tool', content: 'x' }, ...qa] }, /received "tool"/],
  ])('refuses %j', (raw, message) => {
    expect(refused(raw).message).toMatch(message);
  });
});

describe('the LLaVA form', () => {
  it('maps human and gpt', () => {
    expect(normalize({ id: 'x', image: 'a.png', conversations: llavaQa })).toEqual({
      id: 'x',
      image: a,
      conversations: [
        { role: 'user', content: '<image>\nQ' },
        { role: 'assistant', content: 'A' },
      ],
    });
  });

  it('takes a list of images, and none', () => {
    const turns = [{ from: 'human', value: '<image><image>Q' }, llavaQa[1]];
    expect(normalize({ image: ['a.png', 'b.png'], conversations: turns }).image).toEqual({
      '<image_00>': a,
      '<image_01>': b,
    });
    expect(normalize({ conversations: [{ from: 'human', value: 'Q' }, llavaQa[1]] }).image).toBeUndefined();
  });

  it.each([
    [[{ from: 'robot', value: 'x' }, llavaQa[1]], /human or gpt .* received "robot"/],
    [[llavaQa[0], { from: 'gpt', value: null }], /text or a list of parts .* received null/],
    [[llavaQa[0], { role: 'assistant', content: 'A' }], /from and value for every turn .* received role and content/],
    [[{ from: 'human', value: 'Q', role: 'user' }], /received the keys from, value, role/],
    [[{ speaker: 'human' }], /received the keys speaker/],
    [['Q', 'A'], /an object with role and content for a turn but received "Q"/],
  ])('refuses the turns %j', (conversations, message) => {
    expect(refused({ image: 'a.png', conversations }).message).toMatch(message);
  });
});

describe('empty values of merged tables', () => {
  const nothing = { from: null, value: null, weight: null, tool_calls: null };

  it.each([
    ['turns of both styles', { messages: qa.map((turn) => ({ ...turn, ...nothing })) }],
    ['turns of both styles, in the seed form', { conversations: qa.map((turn) => ({ ...turn, ...nothing })) }],
    ['no images in the seed form', { conversations: qa, images: [] }],
    ['nulls as images in the seed form', { conversations: qa, images: [null], image: null }],
    ['nulls by placeholder', { conversations: qa, image: { '<image_00>': null } }],
    ['an empty list beside the turns', { messages: [], conversations: qa }],
    ['an empty list beside the messages', { messages: qa, conversations: [] }],
    ['a null beside the messages', { messages: qa, conversations: null, image: [], images: [null] }],
    [
      'a null as part',
      { messages: [{ role: 'user', content: [null, { type: 'text', text: 'Q', image: null }] }, qa[1]] },
    ],
    ['a null as text', { messages: [{ role: 'user', content: [{ type: 'text', text: null }, { text: 'Q' }] }, qa[1]] }],
    ['an empty system prompt', { conversations: qa, system: '' }],
  ])('are absent: %s', (_, raw) => {
    expect(normalize(raw)).toEqual({ id: undefined, image: undefined, conversations: qa });
  });

  it('in the LLaVA form, and among images', () => {
    const turns = llavaQa.map((turn) => ({ ...turn, role: null, content: null }));
    expect(normalize({ conversations: turns, image: [null, 'a.png'], images: [] }).image).toBe(a);
    const messages = [{ role: 'user', content: '<image>Q' }, qa[1]];
    expect(normalize({ messages, image: [], images: [null, 'a.png', null] }).image).toBe(a);
    const image = { '<image_00>': 'a.png', '<image_01>': null };
    expect(normalize({ image, conversations: qa }).image).toEqual({ '<image_00>': a });
  });

  it.each([
    [{ id: '1', conversations: null }, 'a list of turns for the key conversations of a record but received null'],
    [{ messages: null }, 'a list of turns for the key messages of a record but received null'],
    [{ messages: [], conversations: [] }, 'received an empty list'],
    [{ messages: [{ role: null, content: null }] }, 'role and content for a turn'],
    [
      { messages: [{ role: 'user', content: [{ type: 'text', text: 'Q', image: 'a.png' }] }, qa[1]] },
      'nothing but text',
    ],
  ])('are said where something is missing: %j', (raw, message) => {
    const error = refused(raw);
    expect(error.message).toContain(message);
    expect(error.cure).toBeTruthy();
  });
});

describe('images', () => {
  it('names both places where a missing image was looked for', () => {
    expect(refused({ image: 'gone.png', conversations: qa }).message).toContain(
      `tried from the folder ${folder} and from ${process.cwd()}`,
    );
    expect(refused({ image: '/gone.png', conversations: qa }).message).toContain(
      'Expected the file "/gone.png" for the key image',
    );
    expect(refused({ image: { '<image_00>': 'gone.png' }, conversations: qa }).message).toContain(
      'the image <image_00>',
    );
  });

  it('falls back to the working folder with one notice', () => {
    const notices: string[] = [];
    const resolver = new ImageResolver(file, (message) => notices.push(message));
    expect(resolver.resolve('package.json', 'the key image', place)).toBe(join(process.cwd(), 'package.json'));
    expect(notices[0]).toContain(`are not in its folder but in the working folder ${process.cwd()}`);
  });

  it.each(['http://x.org/a.png', 'HTTPS://x.org/a.png', 's3://bucket/a.png'])('does not fetch %s', (image) => {
    const error = refused({ image, conversations: qa });
    expect(error.message).toContain(`Expected an image file for the key image but received "${image}"`);
    expect(error.cure).toMatch(/Download them/);
  });

  it('refuses what is no base64 image and no bytes', () => {
    expect(refused({ image: 'data:image/png;base64,', conversations: qa }).message).toMatch(/which has no data/);
    expect(refused({ image: 'data:image/png;base64,iVB*', conversations: qa }).message).toMatch(/"\*" as character 4/);
    expect(refused({ image: new Uint8Array(0), conversations: qa }).message).toMatch(/0 bytes/);
    expect(refused({ image: { bytes: null, path: null }, conversations: qa }).message).toMatch(
      /a path or the bytes of an image/,
    );
    expect(refused({ image: 'file://other-host/a.png', conversations: qa }).message).toMatch(/but there is none/);
  });
});
