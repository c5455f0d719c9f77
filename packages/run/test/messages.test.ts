import { CHINESE_TOPICS, chineseMessages, Translator } from '@minicpm-finetune/run/messages';
import { describe, expect, it } from 'vitest';

const ENTRIES = Object.entries(CHINESE_TOPICS).flatMap(([topic, messages]) =>
  Object.entries(messages).map(([english, chinese]) => ({ topic, english, chinese })),
);
const holes = (text: string): string[] => [...text.matchAll(/\{[1-9]\}/g)].map(([hole]) => hole);

describe('the Chinese catalogue', () => {
  it('has each template once', () => {
    const all = ENTRIES.map(({ english }) => english);
    expect(all.filter((one, i) => all.indexOf(one) !== i)).toEqual([]);
  });

  it('has the holes of each English template in the Chinese one, numbered in order', () => {
    for (const { english, chinese } of ENTRIES) {
      const numbered = holes(english).map((_, i) => `{${i + 1}}`);
      expect(holes(english), english).toEqual(numbered);
      expect(holes(chinese).sort(), chinese).toEqual(numbered);
    }
  });

  it('finds each template by itself, whatever other entries match', () => {
    const translator = new Translator(chineseMessages());
    for (const { english } of ENTRIES) {
      for (const form of [english.replaceAll('[s]', ''), english.replaceAll('[s]', 's')]) {
        const text = form.replaceAll(/\{([1-9])\}/g, '"$1"');
        const { used, missing } = translator.translate(text);
        expect([text, used[0], missing]).toEqual([text, english, []]);
      }
    }
  });

  it('is Chinese with Chinese punctuation', () => {
    for (const { english, chinese } of ENTRIES) {
      if (chinese !== english) expect(chinese, english).toMatch(/[\u4e00-\u9fff：，、（]/);
      expect(chinese.replaceAll(/\{.*\}|\[.*\]/g, ''), english).not.toMatch(/[\u4e00-\u9fff][,;:!?.]/);
      expect(chinese.endsWith('。') || !/[^.]\.$/.test(english), `${english}: ${chinese}`).toBe(true);
    }
  });
});

describe('Translator', () => {
  const { say } = new Translator({
    'Expected {1} for {2} but received {3}.': '{2}应为{1}，但收到{3}。',
    'an integer': '整数',
    'the key {1}': '键 {1}',
    '{1} image[s]': '{1} 张图片',
    '{1} and {2}': '{1} 和 {2}',
    'Check the path.': '请检查路径。',
    'NOT SAVED: {1} The run goes on.': '没有保存：{1}训练继续。',
    '{1} is not there; {2} is.': '{2}存在；{1}不存在。',
  });

  it('translates holes in their turn, and puts spaces between Chinese and Latin characters alone', () => {
    expect(say('Expected an integer for the key image but received "a".')).toBe('键 image 应为整数，但收到 "a"。');
    expect(say('1 image')).toBe('1 张图片');
    expect(say('"a b" is not there; 3 images is.')).toBe('3 张图片存在；"a b" 不存在。');
  });

  it('cuts at the place where all holes are understood', () => {
    expect(say('Expected an integer for the key a for b but received 1.')).toBe('键 a for b 应为整数，但收到 1。');
  });

  it('translates sentence by sentence, line by line, and the items of a list', () => {
    expect(say('Check the path. Check the path.')).toBe('请检查路径。请检查路径。');
    expect(say('Check the path.\n  Check the path.')).toBe('请检查路径。\n  请检查路径。');
    expect(say('a.json, the key b, 2 images')).toBe('a.json, 键 b, 2 张图片');
  });

  it('leaves values as they are, and what it does not know in English', () => {
    for (const text of ['"an integer"', '`Check the path.`', 'ENOENT: no such file', 'cats and dogs are animals', '']) {
      expect(say(text)).toBe(text);
    }
    const unknown = 'cats and dogs and mice and cows.';
    expect(say(`${unknown} Check the path.`)).toBe(`${unknown} Check the path.`);
    expect(say('NOT SAVED: ENOSPC: no space left on device. The run goes on.')).toBe(
      '没有保存：ENOSPC: no space left on device.训练继续。',
    );
  });

  it('tells what has no entry', () => {
    const { missing, used } = new Translator({ 'They say: {1}.': '说：{1}。' }).translate('They say: some words here.');
    expect([missing, used]).toEqual([['some words here'], ['They say: {1}.']]);
  });

  it('takes long texts in no time', () => {
    const text = `Expected ${'a for b but received '.repeat(5000)}.`;
    const started = performance.now();
    say(text);
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});
