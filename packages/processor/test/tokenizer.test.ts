import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Tokenizer } from '../src/tokenizer.js';

const FIXTURES = join(import.meta.dirname, 'fixtures');
const REFERENCE = join(FIXTURES, 'reference/tokenize');

interface Case {
  text: string;
  ids: number[];
  ids_no_special: number[];
  decoded: string;
}

function load(model: string): Tokenizer {
  return Tokenizer.load(join(FIXTURES, 'tokenizers', model));
}

/** A copy of a tokenizer's folder. */
function copy(model: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'tokenizer-'));
  cpSync(join(FIXTURES, 'tokenizers', model), folder, { recursive: true });
  return folder;
}

describe.each(readdirSync(REFERENCE))('%s', (file) => {
  const tokenizer = load(file.split('.')[0]!);
  const { cases } = JSON.parse(readFileSync(join(REFERENCE, file), 'utf8')) as { cases: Case[] };

  it('encodes and decodes as the reference', async () => {
    expect(cases.length).toBeGreaterThan(50);
    for (const { text, ids, ids_no_special, decoded } of cases) {
      expect(await tokenizer.encode(text, { addSpecialTokens: true }), text).toEqual(ids);
      expect(await tokenizer.encode(text), text).toEqual(ids_no_special);
      expect(await tokenizer.decode(ids_no_special), text).toBe(decoded);
    }
  });

  it('reads special tokens as text when asked', async () => {
    const text = 'a <image> b </s> c <|im_end|> d <|eot_id|>';
    const ids = await tokenizer.encode(text, { plain: true });
    expect(await tokenizer.decode(ids)).toBe(text);
    for (const token of ['<image>', '</s>', '<|im_end|>', '<|eot_id|>']) {
      const id = tokenizer.tokenId(token);
      if (id !== undefined) expect(ids).not.toContain(id);
    }
  });

  it('keeps the marks of places in a picture as tokens', async () => {
    const [start, end] = [tokenizer.requireId('<box>'), tokenizer.requireId('</box>')];
    for (const plain of [false, true]) {
      const ids = await tokenizer.encode('<box>1 2</box>', { plain });
      expect([ids[0], ids.at(-1)]).toEqual([start, end]);
    }
    expect(tokenizer.findStructure('<ref>cat</ref><box>1 2 3 4</box>')).toBeUndefined();
    expect(tokenizer.findStructure('what is </image> here')).toBe('</image>');
  });
});

describe('a SentencePiece tokenizer', () => {
  const tokenizer = load('minicpm-v-4');

  it('puts a space in front of a text, but not of a continuation', async () => {
    const text = await tokenizer.encode('a\nb');
    const continued = await tokenizer.encode('a\nb', { continuation: true });
    expect(await tokenizer.decode([1, ...text])).toBe('<s> a\nb');
    expect(await tokenizer.decode([1, ...continued])).toBe('<s>a\nb');
    expect(continued).not.toEqual(text);
    expect(tokenizer.token(text[0]!)).toMatch(/^▁/);
    expect(tokenizer.token(continued[0]!)).not.toMatch(/^▁/);
  });

  it('continues only up to the first special token', async () => {
    const whole = await tokenizer.encode('x\n<|im_end|>\n');
    const continued = await tokenizer.encode('\n<|im_end|>\n', { continuation: true });
    expect(whole.slice(-continued.length)).toEqual(continued);
  });

  it('adds its first token only when asked', async () => {
    expect(await tokenizer.encode('a', { addSpecialTokens: true })).toEqual([1, ...(await tokenizer.encode('a'))]);
  });
});

describe('what is wrong with a tokenizer', () => {
  it('names missing files', () => {
    const folder = copy('minicpm-v-2_6');
    rmSync(join(folder, 'tokenizer.json'));
    expect(() => Tokenizer.load(folder)).toThrow(/tokenizer\.json but received: no such file/);
    expect(() => Tokenizer.load('/nowhere')).toThrow(/no such file/);
  });

  it('names broken files', () => {
    const folder = copy('minicpm-v-2_6');
    writeFileSync(join(folder, 'tokenizer.json'), '{"version": "1.0"');
    expect(() => Tokenizer.load(folder)).toThrow(/in the JSON of the tokenizer but received the end/);
    writeFileSync(join(folder, 'tokenizer.json'), '{"version": "1.0"}');
    expect(() => Tokenizer.load(folder)).toThrow(/Expected a tokenizer in/);
  });

  it('names the special tokens that are missing', () => {
    const tokenizer = load('minicpm-v-2');
    expect(() => tokenizer.requireSpecial(['<image>', '<image_id>', '<|im_start|>'])).toThrow(
      /special tokens <image_id>, <\|im_start\|> in the tokenizer of .*minicpm-v-2/,
    );
    expect(() => tokenizer.requireId('<|eot_id|>')).toThrow(/<\|eot_id\|>/);
  });
});
