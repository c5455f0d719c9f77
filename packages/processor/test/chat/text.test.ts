/** Half characters, and pictures named in the way of other tools. */
import { describe, expect, it } from 'vitest';
import { checkCharacters, checkPictureNames, foreignPicture } from '../../src/chat/text.js';

const user = (content: string) => [{ role: 'user', content } as const];

describe('half characters', () => {
  it.each([
    ['cut emoji \ud83d', 'half of one, \\ud83d, as character 11: "cut emoji \\ud83d"'],
    ['yes \ude00 no', 'half of one, \\ude00, as character 5: "yes \\ude00 no"'],
    [`${'😀'.repeat(40)}\ud83d${'汉'.repeat(40)}`, `as character 81: "${'😀'.repeat(20)}\\ud83d${'汉'.repeat(19)}"`],
  ])('are shown with what is around them: %j', (text, message) => {
    expect(() => checkCharacters(text, 2)).toThrow(message);
    expect(() => checkCharacters(text, 2)).toThrow(expect.objectContaining({ turn: 2 }));
  });

  it('are no whole ones', () => {
    for (const text of ['', '😀 汉字 e\u0301 \ufffd', '\ud83d\ude00']) checkCharacters(text, 0);
  });
});

describe('pictures of other tools', () => {
  it.each([
    ['Picture 1: <img>images/a.png</img>\nWhat?', '<img>images/a.png</img>'],
    ['![](images/a.png)\nWhat?', '![](images/a.png)'],
    ['![a cat](<images/a.png> "title") What?', '![a cat](<images/a.png> "title")'],
    ['![](data:image/png;base64,AAAA)', '![](data:image/png;base64,AAAA)'],
    ['<img src="images/a.png">', '<img src="images/a.png">'],
    ["<IMG width=5 src='a.png' />", "<IMG width=5 src='a.png' />"],
    ...[
      '<ImageHere>',
      '<image_placeholder>',
      '<|image_pad|>',
      '<|image|>',
      '<|image_1|>',
      '<|vision_start|>',
      '[IMG]',
      '<IMAGE>',
      '<Image>',
      '<image1>',
      '<image 1>',
      '<img>',
      '<IMG_CONTEXT>',
      '<start_of_image>',
    ].map((mark) => [`See ${mark} here`, mark]),
  ])('are found: %j', (text, written) => {
    expect(foreignPicture(text!)?.written).toBe(written);
    expect(() => checkPictureNames(user(text!), [])).toThrow(
      /^Expected <image> for a picture in the text but received/,
    );
    expect(() => checkPictureNames(user(text!), [])).toThrow(
      expect.objectContaining({ turn: 0, cure: expect.stringContaining('Write <image> in its place') }),
    );
  });

  it.each([
    'What is in the image?',
    '<image>\nWhat?',
    '<image_00><image_12>',
    'a [link](a.png) and (image)',
    '<b>bold</b> 3 < 4 > 2',
    'What does `![](a.png)` mean?',
    'Explain:\n```html\n<img src="a.png">\n```',
    'Explain:\n```html\n<img src="a.png">',
    'imgs[0] = img',
  ])('are not %j', (text) => {
    expect(foreignPicture(text)).toBeUndefined();
    checkPictureNames(user(text), []);
  });

  it('may be named by path when they are among the pictures of the record', () => {
    checkPictureNames(user('<image>\nThis is ![](images/a.png)'), ['/data/images/a.png']);
    checkPictureNames(user('<image>\nThis is ![](images/a.png)'), [new Uint8Array(1)]);
    expect(() => checkPictureNames(user('<image> ![](b.png)'), ['/data/a.png'])).toThrow(/has no such picture/);
    expect(() => checkPictureNames(user('<ImageHere>'), ['/data/a.png'])).toThrow(/received "<ImageHere>"/);
  });

  it('are looked for in questions only', () => {
    checkPictureNames([...user('Write HTML.'), { role: 'assistant', content: '<img src="a.png">' }], []);
  });

  it('are looked for in time that grows with the text', () => {
    const text = '<img ![ <image '.repeat(20_000);
    const started = performance.now();
    expect(foreignPicture(text)).toBeUndefined();
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});
