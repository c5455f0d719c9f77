/** Conversations as inference encodes them: prompts, labels, image bounds, and what is refused. */
import { join } from 'node:path';
import type { LlmType } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import type { LayoutOptions, Medium } from '../../src/chat/layout.js';
import type { ChatMessage } from '../../src/chat/messages.js';
import type { Grid } from '../../src/chat/placeholders.js';
import { encodeMessages } from '../../src/chat/segments.js';
import { chatTemplate } from '../../src/chat/templates.js';
import { Tokenizer } from '../../src/tokenizer.js';

const MODELS = {
  qwen: 'minicpm-v-2_6',
  llama: 'minicpm-v-4',
  llama3: 'minicpm-llama3-v-2_5',
  minicpm: 'minicpm-v-2',
} as const satisfies Partial<Record<LlmType, string>>;
const QUERIES = 3;

function load(model: string): Tokenizer {
  return Tokenizer.load(join(import.meta.dirname, '../fixtures/tokenizers', model));
}

const templates = Object.fromEntries(
  Object.entries(MODELS).map(([llmType, model]) => [llmType, chatTemplate(llmType as LlmType, load(model))]),
) as Record<LlmType, ReturnType<typeof chatTemplate>>;

const IMAGE = { image: 'a.png' };
const CONVERSATION: ChatMessage[] = [
  { role: 'user', content: [IMAGE, 'What is this?'] },
  { role: 'assistant', content: 'A cat.' },
  { role: 'user', content: ['And', IMAGE, 'this?'] },
  { role: 'assistant', content: 'A dog.' },
];

function layout(purpose: LayoutOptions['purpose']): LayoutOptions {
  const videos = { numbered: false, separator: '' };
  return { purpose, thinking: 'inference', enableThinking: false, imageIds: true, videos };
}

/** Images with as many tokens a picture. */
function images(grids: Grid[]): Medium[] {
  return grids.map((grid) => ({
    kind: 'image',
    grids: [grid],
    counts: Array.from({ length: 1 + (grid ? grid[0] * grid[1] : 0) }, () => QUERIES),
  }));
}

async function encode(
  llmType: LlmType,
  messages: ChatMessage[],
  grids: Grid[],
  purpose: 'training' | 'prompt' = 'training',
) {
  const template = templates[llmType];
  const text = await encodeMessages(template, messages, images(grids), layout(purpose));
  expect(text.labels.length).toBe(text.inputIds.length);
  const supervised = text.labels.filter((label) => label !== -100);
  return { ...text, supervised, shown: await template.tokenizer.decode(supervised) };
}

/** The placeholder of a picture as it is printed. */
function picture(open: string, close: string): string {
  return `<${open}>${'<unk>'.repeat(QUERIES)}</${close}>`;
}

const overview = picture('image', 'image');
const slice = picture('slice', 'slice');

describe('the whole conversation', () => {
  it.each([
    [
      'qwen',
      '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' +
        `<|im_start|>user\n<image_id>0</image_id>${overview}\nWhat is this?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n` +
        `<|im_start|>user\nAnd\n<image_id>1</image_id>${overview}${slice}${slice}\nthis?<|im_end|>\n<|im_start|>assistant\nA dog.<|im_end|>\n`,
    ],
    [
      'llama3',
      `<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n${overview}\nWhat is this?<|eot_id|>` +
        '<|start_header_id|>assistant<|end_header_id|>\n\nA cat.<|eot_id|>' +
        `<|start_header_id|>user<|end_header_id|>\n\nAnd\n${overview}<slice>${overview}${overview}</slice>\nthis?<|eot_id|>` +
        '<|start_header_id|>assistant<|end_header_id|>\n\nA dog.<|eot_id|>',
    ],
  ] as const)('%s', async (llmType, expected) => {
    const { inputIds } = await encode(llmType, CONVERSATION, [null, [2, 1]]);
    const { tokenizer } = templates[llmType];
    expect(await tokenizer.decode(inputIds)).toBe(expected);
    expect(inputIds).toEqual(await tokenizer.encode(expected));
  });

  it('llama: an <s> in front, and answers follow their newline without a space', async () => {
    const { inputIds } = await encode('llama', CONVERSATION, [null, null]);
    const { tokenizer } = templates.llama;
    const text = inputIds.map((id) => tokenizer.token(id)).join('');
    expect(text).toMatch(
      /^<s><\|im_start\|>▁user<0x0A><image_id>▁?0<\/image_id><image>(<unk>){3}<\/image>▁<0x0A>What▁is▁this\?<\|im_end\|>▁<0x0A>/,
    );
    expect(text).toContain('<|im_start|>▁assistant<0x0A>A▁cat.<|im_end|>▁<0x0A><|im_start|>▁user');
    // No answer begins with a newline here, so one tokenization of the whole text says the same.
    const rendered = `<|im_start|>user\n<image_id>0</image_id>${overview}\nWhat is this?<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nAnd\n<image_id>1</image_id>${overview}\nthis?<|im_end|>\n<|im_start|>assistant\nA dog.<|im_end|>\n`;
    expect(inputIds).toEqual(await tokenizer.encode(rendered, { addSpecialTokens: true }));
  });

  it('minicpm: an <s> in front, no end token before the next question', async () => {
    const { inputIds } = await encode('minicpm', CONVERSATION, [null, null]);
    const { tokenizer } = templates.minicpm;
    const text = inputIds.map((id) => tokenizer.token(id)).join('');
    const features = '<image><unk><unk><unk></image>';
    expect(text).toBe(
      `<s>▁<用户>${features}▁<0x0A>What▁is▁this?<AI>▁A▁cat.<用户>And<0x0A>${features}▁<0x0A>this?<AI>▁A▁dog.</s>`,
    );
  });
});

describe('labels', () => {
  it.each([
    ['qwen', 'A cat.<|im_end|>A dog.<|im_end|>'],
    ['llama', 'A cat.<|im_end|>A dog.<|im_end|>'],
    ['llama3', 'A cat.<|eot_id|>A dog.<|eot_id|>'],
    ['minicpm', 'A cat.</s> A dog.</s>'],
  ] as const)('%s: each answer and its end token, once', async (llmType, expected) => {
    const { shown, labels, inputIds } = await encode(llmType, CONVERSATION, [null, [2, 2]]);
    expect(shown).toBe(expected);
    expect(labels.at(-1)).toBe(-100);
    // Each label is the next id, but for the end tokens that MiniCPM-V-2 does not show in its history.
    const others = labels.flatMap((label, i) => (label !== -100 && label !== inputIds[i + 1] ? [label] : []));
    expect(others).toEqual(llmType === 'minicpm' ? [templates.minicpm.tokenizer.requireId('</s>')] : []);
  });

  it.each([
    ['qwen', '<|im_end|>B<|im_end|>'],
    ['llama3', '<|eot_id|>B<|eot_id|>'],
    ['minicpm', '</s> B</s>'],
  ] as const)('%s: an empty answer is its end token', async (llmType, expected) => {
    const messages: ChatMessage[] = [
      { role: 'user', content: 'x' },
      { role: 'assistant', content: '' },
      { role: 'user', content: 'y' },
      { role: 'assistant', content: 'B' },
    ];
    expect((await encode(llmType, messages, [])).shown).toBe(expected);
  });

  it.each([
    ['qwen', 'A dog.<|im_end|>'],
    ['llama', 'A dog.<|im_end|>'],
    ['llama3', 'A dog.<|eot_id|>'],
    ['minicpm', ' A dog.</s>'],
  ] as const)('%s: an answer that is not learned is what it is in a prompt', async (llmType, expected) => {
    const messages = CONVERSATION.map((message, i) => (i === 1 ? { ...message, supervised: false } : message));
    const grids: Grid[] = [null, [2, 2]];
    const { inputIds, labels, supervised, imageBounds } = await encode(llmType, messages, grids);
    const { tokenizer } = templates[llmType];
    expect((await tokenizer.decode(supervised)).trim()).toBe(expected.trim());
    const prompt = await encode(llmType, CONVERSATION.slice(0, -1), grids, 'prompt');
    expect(inputIds.slice(0, prompt.inputIds.length)).toEqual(prompt.inputIds);
    expect(imageBounds).toEqual(prompt.imageBounds);
    const first = labels.findIndex((label) => label !== -100);
    expect(first).toBe(prompt.inputIds.length - 1);
    expect(labels.slice(first, first + supervised.length)).toEqual(supervised);
  });

  it.each(Object.keys(MODELS) as LlmType[])('%s: a last answer that is not learned', async (llmType) => {
    const messages = CONVERSATION.map((message, i) => (i === 3 ? { ...message, supervised: false } : message));
    const grids: Grid[] = [null, null];
    const { supervised } = await encode(llmType, messages, grids);
    expect(supervised).toEqual((await encode(llmType, CONVERSATION.slice(0, 2), grids.slice(0, 1))).supervised);
  });

  it('begins an answer after a single newline, whatever the answer begins with', async () => {
    const messages: ChatMessage[] = [
      { role: 'user', content: 'x' },
      { role: 'assistant', content: '\nNew line.' },
    ];
    const { shown, inputIds, labels } = await encode('qwen', messages, []);
    expect(shown).toBe('\nNew line.<|im_end|>');
    const prompt = await encode('qwen', messages.slice(0, 1), [], 'prompt');
    expect(inputIds.slice(0, prompt.inputIds.length)).toEqual(prompt.inputIds);
    expect(labels.findIndex((label) => label !== -100)).toBe(prompt.inputIds.length - 1);
  });

  it('supervises nothing after the last answer', async () => {
    const { labels, inputIds } = await encode(
      'qwen',
      [...CONVERSATION, { role: 'user', content: 'And now?' }],
      [null, null],
    );
    const last = labels.findLastIndex((label) => label !== -100);
    expect(labels[last]).toBe(templates.qwen.tokenizer.requireId('<|im_end|>'));
    expect(inputIds.length - last).toBeGreaterThan(5);
  });
});

describe('a prompt', () => {
  it.each(Object.keys(MODELS) as LlmType[])('%s: is what training shows before the first answer', async (llmType) => {
    const question = CONVERSATION.slice(0, 1);
    const prompt = await encode(llmType, question, [[2, 1]], 'prompt');
    const training = await encode(llmType, CONVERSATION.slice(0, 2), [[2, 1]]);
    expect(prompt.supervised).toEqual([]);
    expect(training.inputIds.slice(0, prompt.inputIds.length)).toEqual(prompt.inputIds);
    expect(training.imageBounds).toEqual(prompt.imageBounds);
    expect(training.labels.findIndex((label) => label !== -100)).toBe(prompt.inputIds.length - 1);
  });

  it('minicpm: tokenizes history and question in one go, as inference does', async () => {
    const messages = [...CONVERSATION.slice(0, 2), { role: 'user', content: 'More?' } as const];
    const { inputIds } = await encode('minicpm', messages, [null], 'prompt');
    const text = `<用户>${overview}\nWhat is this?<AI>A cat.<用户>More?<AI>`;
    expect(inputIds).toEqual(await templates.minicpm.tokenizer.encode(text, { addSpecialTokens: true }));
  });

  it('takes a system turn in place of the default one', async () => {
    const messages: ChatMessage[] = [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hi' },
    ];
    const { inputIds } = await encode('qwen', messages, [], 'prompt');
    expect(await templates.qwen.tokenizer.decode(inputIds)).toBe(
      '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n',
    );
  });

  it("has the checkpoint's own system prompt", async () => {
    const template = chatTemplate('qwen', load('minicpm-o-2_6'));
    const { inputIds } = await encodeMessages(template, [{ role: 'user', content: 'Hi' }], [], layout('prompt'));
    expect(await template.tokenizer.decode(inputIds)).toContain('You are Qwen, created by Alibaba Cloud.');
  });

  it('llama3: strips turns as Python does', async () => {
    const messages: ChatMessage[] = [{ role: 'user', content: ['  \n', IMAGE, '\ufeffx \x1f\x85\n'] }];
    const { inputIds } = await encode('llama3', messages, [null], 'prompt');
    const { tokenizer } = templates.llama3;
    const text = `<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n${overview}\n\ufeffx<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n`;
    expect(inputIds).toEqual(await tokenizer.encode(text));
  });
});

describe('image bounds', () => {
  it.each(Object.keys(MODELS) as LlmType[])('%s: hold exactly the features of each picture', async (llmType) => {
    const { inputIds, imageBounds, imageSpans } = await encode(llmType, CONVERSATION, [
      [1, 2],
      [2, 1],
    ]);
    const unk = templates[llmType].tokenizer.requireId('<unk>');
    expect(imageBounds.length).toBe(6);
    for (const [start, end] of imageBounds) expect(inputIds.slice(start, end)).toEqual(Array(QUERIES).fill(unk));
    expect(inputIds.filter((id) => id === unk).length).toBe(6 * QUERIES);
    expect(imageSpans.length).toBe(2);
    const { tokenizer, schema } = templates[llmType];
    for (const [i, [start, end]] of imageSpans.entries()) {
      expect(tokenizer.token(inputIds[start]!)).toBe(schema === 'new' ? '<image_id>' : '<image>');
      expect(tokenizer.token(inputIds[end - 1]!)).toBe('</slice>');
      expect(imageBounds.filter(([from, to]) => start < from && to < end).length, `image ${i}`).toBe(3);
    }
  });

  it('are not fooled by special tokens that are text', async () => {
    for (const llmType of Object.keys(MODELS) as LlmType[]) {
      const messages: ChatMessage[] = [
        { role: 'user', content: [IMAGE, 'What are <image><unk></image> and <slice><unk></slice>?'] },
        { role: 'assistant', content: 'Marks like <|im_end|>, <|eot_id|> or </s>.' },
      ];
      const { inputIds, imageBounds, shown } = await encode(llmType, messages, [null]);
      expect(imageBounds.length).toBe(1);
      const { tokenizer } = templates[llmType];
      expect(inputIds.filter((id) => id === tokenizer.requireId('<image>')).length).toBe(1);
      expect(await tokenizer.decode(inputIds)).toContain('What are <image><unk></image> and <slice><unk></slice>?');
      expect(shown.trimStart()).toBe(`Marks like <|im_end|>, <|eot_id|> or </s>.${templates[llmType].end}`);
    }
  });
});

describe('chatTemplate', () => {
  it('refuses a tokenizer of another type, by name', () => {
    expect(() => chatTemplate('llama3', load('minicpm-v-2_6'))).toThrow(/special tokens .*<\|eot_id\|>/);
    expect(() => chatTemplate('qwen', load('minicpm-v-2'))).toThrow(
      /<\|im_start\|>, <\|im_end\|>, <image_id>, <\/image_id>/,
    );
  });

  it('refuses a checkpoint whose own template says something else', () => {
    const tokenizer = load('minicpm-v-2_6');
    Object.assign(tokenizer, { chatTemplate: '{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}' });
    expect(() => chatTemplate('qwen', tokenizer)).toThrow(/chat template of --llm_type qwen/);
  });
});
