/** The official data set code's results, both copies of it, for all five tokenizers. */
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { encodeOfficial, type OfficialOptions } from '../../src/chat/official.js';
import { pythonString } from '../../src/chat/python.js';
import { encodeRecord } from '../../src/encode.js';
import { Tokenizer } from '../../src/tokenizer.js';

const REFERENCE = join(import.meta.dirname, '../fixtures/reference');
const PICTURE = 'images/tiny_40x30.png';

function options(model: string, llmType: OfficialOptions['llmType']): OfficialOptions {
  return {
    tokenizer: Tokenizer.load(join(import.meta.dirname, '../fixtures/tokenizers', model)),
    llmType,
    sliceConfig: { maxSliceNums: 4, scaleResolution: 112, patchSize: 14 },
    patchSize: 14,
    pictureTokens: { queryNum: 4 },
    batchVision: llmType !== 'minicpm',
    maxLength: 2048,
    imageRoot: REFERENCE,
  };
}

// Every stored record is compared by the parity command's own test; here is what the stored ones do not say.
describe('encodeOfficial', () => {
  const qwen = options('minicpm-v-2_6', 'qwen');
  const llama3 = options('minicpm-llama3-v-2_5', 'llama3');
  const turns = (answer: string) => [
    { role: 'user', content: 'Hi' },
    { role: 'assistant', content: answer },
  ];
  const supervised = async (o: OfficialOptions, conversations: unknown): Promise<string> => {
    const { labels } = await encodeOfficial({ image: {}, conversations }, o);
    return await o.tokenizer.decode(Array.from(labels).filter((label) => label !== -100));
  };

  it('supervises the newline after the header and a second end token (qwen)', async () => {
    expect(await supervised(qwen, turns('Hello.'))).toBe('\nHello.<|im_end|><|im_end|>');
    expect(await supervised({ ...qwen, variant: 'openbmb' }, turns('Hello.'))).toBe('Hello.<|im_end|><|im_end|>');
  });

  it('prints what is not text as Python does (llama3)', async () => {
    const content = [null, 5, true, ["it's", 'a "b"'], { a: 'x\n' }];
    const { labels } = await encodeOfficial(
      { image: PICTURE, conversations: turns(content as unknown as string) },
      llama3,
    );
    const printed = await llama3.tokenizer.decode(Array.from(labels).filter((label) => label !== -100));
    expect(printed).toBe(`${pythonString(content)}<|eot_id|>`);
    expect(pythonString(content)).toBe(`[None, 5, True, ["it's", 'a "b"'], {'a': 'x\\n'}]`);
  });

  it('pairs one start mark with all end marks, as arrays stretch (llama3)', async () => {
    // One header mark less than ends: with two starts and three ends it fails, a single one stretches.
    await expect(supervised(llama3, turns('a <|end_header_id|> b'))).rejects.toThrow('2 and 3');
  });

  it.each([
    ['no image', { conversations: turns('a') }, 'path of an image'],
    ['a list of images', { image: [PICTURE], conversations: turns('a') }, 'path of an image'],
    ['one turn', { image: {}, conversations: [{ role: 'user', content: 'a' }] }, 'at least two turns'],
    ['an unknown role', { image: {}, conversations: [turns('a')[0], { role: 'bot', content: 'a' }] }, 'received "bot"'],
    ['an unknown tag', { image: {}, conversations: turns('<image_٣>') }, 'tag <image_٣>'],
    ['a number as content', { image: {}, conversations: turns(5 as unknown as string) }, 'received 5'],
    ['no record', null, 'Expected an object for a record'],
  ])('refuses %s (qwen)', async (_, record, message) => {
    const error: unknown = await encodeOfficial(record, qwen).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UserError);
    expect((error as Error).message).toContain(message);
  });

  it('refuses a picture smaller than a patch, where it is not resized', async () => {
    const unsliced = { ...llama3, sliceConfig: null, patchSize: 32 };
    await expect(encodeOfficial({ image: PICTURE, conversations: turns('a') }, unsliced)).rejects.toThrow(
      'at least 32x32',
    );
  });
});

describe('encodeRecord with compat official', () => {
  const qwen = { ...options('minicpm-v-2_6', 'qwen'), compat: 'official' as const };
  const conversations = [
    { role: 'user' as const, content: 'Hi' },
    { role: 'assistant' as const, content: 'Hello.' },
  ];

  it('gives what encodeOfficial gives', async () => {
    const record = { image: PICTURE, conversations };
    expect(await encodeRecord(record, qwen)).toEqual(await encodeOfficial(record, qwen));
  });

  it('takes text-only records', async () => {
    expect((await encodeRecord({ conversations }, qwen))!.pictures).toEqual([]);
  });

  it('refuses pictures without a place, which the model could not use', async () => {
    const record = { image: { '<image_00>': PICTURE }, conversations };
    await expect(encodeRecord(record, qwen)).rejects.toThrow('each of the 1 pictures but received 0');
  });
});
