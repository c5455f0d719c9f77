/** The page's logic of the screens Data, New run and Chat. */
import { describe, expect, it } from 'vitest';
import { curlCode, pythonCode } from '../../page/screens/chat/code.js';
import { contentOf, partsOf, placeOf, questionOfRecord } from '../../page/screens/chat/content.js';
import {
  LARGEST,
  LARGEST_VIDEO,
  MOST_PICTURES,
  refusalOf as pictureRefusal,
} from '../../page/screens/chat/pictures.js';
import { samplingOf } from '../../page/screens/chat/sampling.js';
import { refusalOf, takeChunk } from '../../page/screens/chat/stream.js';
import { cutBy, pathFrom, sliderOf } from '../../page/screens/data/lengths.js';
import { type Entry, labelledEntry, moved, shownText } from '../../page/screens/data/tokens.js';
import { choicesOf, fieldsOf, fieldText, isFound, valuesOf } from '../../page/screens/new-run/form.js';
import type { ChatModel, RecordView } from '../../src/shared/api.js';

describe('lengths', () => {
  it('says what a limit cuts off, bad records left out', () => {
    expect(cutBy([5, 20, null, 30], 10)).toEqual({ records: 2, of: 3, tokens: 30, ofTokens: 55 });
    expect(cutBy([], 10)).toEqual({ records: 0, of: 0, tokens: 0, ofTokens: 0 });
  });

  it('has a slider with room for the limit and the longest record', () => {
    expect(sliderOf(1000, 256)).toEqual({ min: 64, max: 1024, step: 64 });
    expect(sliderOf(60, 256)).toEqual({ min: 1, max: 256, step: 1 });
  });

  it('makes paths absolute where the folder is known', () => {
    expect(pathFrom('/a', 'b/c.json')).toBe('/a/b/c.json');
    expect(pathFrom('/a', '/b')).toBe('/b');
    expect(pathFrom(null, 'b')).toBe('b');
    expect(pathFrom('/a', '')).toBe('');
  });
});

describe('tokens', () => {
  const token = (index: number, label: number | null, supervised: boolean): Entry => ({
    index,
    id: index,
    text: 'x',
    role: 'user',
    supervised,
    label: label === null ? null : { id: label, text: 'y' },
  });

  it('shows what cannot be seen', () => {
    expect(shownText('\n\n')).toBe('↵\n↵\n');
    expect(shownText(' a b ')).toBe('␣a b␣');
    expect(shownText('')).toBe('▫');
  });

  it('finds the token that is the label of a position: the next one', () => {
    const entries = [token(0, null, false), token(1, 2, false), token(2, null, true)];
    expect([0, 1, 2].map((at) => labelledEntry(entries, at))).toEqual([null, 2, null]);
  });

  it('moves within the list', () => {
    expect([moved(0, 'ArrowLeft', 5), moved(3, 'ArrowDown', 5), moved(2, 'ArrowRight', 5)]).toEqual([0, 4, 3]);
    expect([moved(2, 'Home', 5), moved(2, 'End', 5), moved(2, 'x', 5)]).toEqual([0, 4, null]);
  });
});

describe('the form', () => {
  const flags = [
    { name: 'data_path', kind: 'strings' },
    { name: 'lora_layers_to_transform', kind: 'integers' },
    { name: 'lora_r', kind: 'integer' },
    { name: 'use_lora', kind: 'boolean' },
    { name: 'lr_scheduler_kwargs', kind: 'options' },
  ] as const;
  const values = {
    data_path: ['a b.json', 'c.json'],
    lora_layers_to_transform: [0, 1],
    lora_r: 8,
    use_lora: true,
    lr_scheduler_kwargs: { num_cycles: 2 },
  };

  it('shows values as texts and reads them back', () => {
    expect(fieldsOf(values)).toEqual({
      data_path: 'a b.json\nc.json',
      lora_layers_to_transform: '0 1',
      lora_r: '8',
      use_lora: 'true',
      lr_scheduler_kwargs: '{"num_cycles":2}',
    });
    expect(valuesOf(fieldsOf(values), flags)).toEqual({
      data_path: ['a b.json', 'c.json'],
      lora_layers_to_transform: '0 1',
      lora_r: '8',
      use_lora: 'true',
      lr_scheduler_kwargs: '{"num_cycles":2}',
    });
    expect(valuesOf({ lora_r: ' ', data_path: '\n a \n\n' }, flags)).toEqual({ data_path: ['a'] });
    expect([fieldText(null), fieldText(undefined)]).toEqual(['', '']);
  });

  it('offers the words of a choice', () => {
    expect(choicesOf({ kind: 'boolean', choices: ['auto'] })).toEqual(['true', 'false', 'auto']);
    expect(choicesOf({ kind: 'choice', choices: ['a'] })).toEqual(['a']);
  });

  it('finds flags by name and help in the language of the page', () => {
    const flag = { name: 'lora_r', help: { en: 'Rank of the adapters.', zh: '适配器的秩。' } };
    expect(isFound(flag, '--lora', 'en')).toBe(true);
    expect(isFound(flag, 'rank lora', 'zh')).toBe(true);
    expect(isFound(flag, '秩', 'zh')).toBe(true);
    expect(isFound(flag, 'seed', 'en')).toBe(false);
  });
});

describe('a question', () => {
  const picture = (name: string) => ({
    kind: 'image' as const,
    name,
    url: `data:image/png;base64,${name}`,
    shown: '',
    bytes: 1,
  });
  const video = { ...picture('a.webm'), kind: 'video' as const, url: 'data:video/webm;base64,a' };
  const pictures = [picture('a.png'), picture('b.png')];

  it('has pictures at their places, those without one first', () => {
    expect(partsOf({ text: 'See.', pictures })).toEqual([...pictures, 'See.']);
    expect(partsOf({ text: `One ${placeOf(2)} two`, pictures })).toEqual([pictures[0], 'One ', pictures[1], ' two']);
    expect(partsOf({ text: placeOf(9), pictures: [] })).toEqual([placeOf(9)]);
    expect(contentOf({ text: 'Hi', pictures: [] })).toBe('Hi');
    expect(contentOf({ text: 'Hi', pictures: [pictures[0]!] })).toEqual([
      { type: 'image_url', image_url: { url: pictures[0]!.url } },
      { type: 'text', text: 'Hi' },
    ]);
    expect(contentOf({ text: `In ${placeOf(1)}?`, pictures: [video] })).toEqual([
      { type: 'text', text: 'In ' },
      { type: 'video_url', video_url: { url: video.url } },
      { type: 'text', text: '?' },
    ]);
  });

  const view = (content: string, images: number, videos = 0): RecordView => ({
    record: 0,
    place: '',
    id: null,
    conversation: [
      { role: 'system', name: 'turn 0', content: 'Be brief.', learned: false },
      { role: 'user', name: 'turn 1', content, learned: false },
      { role: 'assistant', name: 'turn 2', content: 'That.', learned: true },
    ],
    encodings: [
      {
        compat: 'inference',
        error: null,
        length: 0,
        supervised: 0,
        cut: 0,
        notices: [],
        tokens: [],
        images: Array.from({ length: images }, () => ({
          name: null,
          turn: 1,
          role: 'user' as const,
          width: 1,
          height: 1,
          grid: null,
          pictures: [],
        })),
        videos: Array.from({ length: videos }, () => ({ name: 'v', turn: 1, role: 'user' as const, frames: [] })),
      },
    ],
    findings: [],
  });

  it('is made of a record: pictures that lead need no place, others keep theirs', () => {
    expect(questionOfRecord(view('<image>\nWhat?', 1))).toEqual({
      system: 'Be brief.',
      text: 'What?',
      images: [0],
      videos: 0,
      reference: 'That.',
    });
    expect(questionOfRecord(view('<image_00>\n<image_01>\nCompare.', 2)).text).toBe('Compare.');
    expect(questionOfRecord(view('From <image_00> to <image_01>?', 2)).text).toBe(
      `From ${placeOf(1)} to ${placeOf(2)}?`,
    );
    expect(questionOfRecord(view('Say <image>.', 0)).text).toBe('Say <image>.');
    expect(questionOfRecord(view('<video>What moves?', 0, 1))).toMatchObject({ text: 'What moves?', videos: 1 });
    expect(questionOfRecord(view('Say <video>.', 0)).text).toBe('Say <video>.');
  });

  it('takes pictures of known kinds, sizes and counts alone', () => {
    const refused = (type: string, size = 5, had = 0, videos = true) => pictureRefusal({ type, size }, had, videos);
    expect(refused('image/png')).toBeNull();
    expect(refused('image/svg+xml')).toBe('type');
    expect(refused('image/png', LARGEST + 1)).toBe('size');
    expect(refused('image/png', 5, MOST_PICTURES)).toBe('count');
    expect(refused('video/mp4', LARGEST + 1)).toBeNull();
    expect(refused('video/mp4', LARGEST_VIDEO + 1)).toBe('videoSize');
    expect(refused('video/mp4', 5, 0, false)).toBe('videos');
    expect(refused('video/x-flv')).toBe('type');
  });

  it('is copied as code that reads pictures and videos from their files', () => {
    const model = { command: 'minicpm-finetune serve --model m', name: 'm' } as ChatModel;
    const messages = [{ role: 'user' as const, content: { text: "It's?", pictures: [picture('my photo.jpg')] } }];
    const curl = curlCode(model, messages, { temperature: 0 });
    expect(curl).toContain('# minicpm-finetune serve --model m\ncurl http://127.0.0.1:8000/v1/chat/completions');
    expect(curl).toContain(`data:image/jpeg;base64,'"$(base64 < my_photo.jpg | tr -d '\\n')"'`);
    expect(curl).toContain("It'\\''s?");
    const moving = curlCode(model, [{ role: 'user', content: { text: '', pictures: [video] } }], {});
    expect(moving).toContain('"type": "video_url"');
    expect(moving).toContain(`"url": "data:video/webm;base64,'"$(base64 < a.webm |`);
    const python = pythonCode(model, messages, { temperature: 0, top_k: 5 });
    expect(python).toContain('"content": [media("my_photo.jpg"), {"type": "text", "text": "It\'s?"}]');
    expect(python).toContain('    temperature=0,\n    extra_body={"top_k":5},\n');
  });
});

describe('sampling', () => {
  it('has the numbers that are given', () => {
    expect(samplingOf({ temperature: 0, top_p: null, seed: 7 })).toEqual({ temperature: 0, seed: 7 });
  });
});

describe('a streamed answer', () => {
  it('gives text, end and usage', () => {
    const seen: unknown[] = [];
    const events = {
      onText: (text: string) => seen.push(text),
      onEnd: (reason: string) => seen.push(reason),
      onUsage: (usage: object) => seen.push(usage),
    };
    const usage = { prompt_tokens: 9, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 4 } };
    for (const chunk of [
      { choices: [{ delta: { role: 'assistant', content: '' }, finish_reason: null }] },
      { choices: [{ delta: { content: 'a' }, finish_reason: null }] },
      { choices: [{ delta: {}, finish_reason: 'stop' }] },
      { choices: [], usage },
    ])
      takeChunk(JSON.stringify(chunk), events);
    takeChunk('[DONE]', events);
    expect(seen).toEqual(['a', 'stop', { prompt: 9, completion: 2, cached: 4 }]);
    const broken = JSON.stringify({ error: { message: 'Out of memory.' } });
    expect(() => takeChunk(broken, events)).toThrow('Out of memory.');
  });

  it('is refused in OpenAI form, in that of the page, or in plain text', () => {
    expect(refusalOf(400, '{"error":{"message":"M","param":"messages[0]"}}')).toMatchObject({ field: 'messages[0]' });
    expect(refusalOf(503, '{"error":{"message":"M","field":null,"cure":"C"}}')).toMatchObject({ cure: 'C' });
    expect(refusalOf(502, 'gone')).toMatchObject({ message: 'gone', status: 502 });
  });
});
