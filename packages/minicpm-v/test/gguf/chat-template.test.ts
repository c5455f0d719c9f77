/** The chat template in GGUF files writes the prompts of the training: around turns, and around the marks that llama.cpp puts for pictures. */
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chatTemplate, renderChatTemplate, Tokenizer, VERSIONS } from '@minicpm-finetune/processor';
import { afterAll, describe, expect, it } from 'vitest';
import { PromptEncoder } from '../../src/generation/prompt.js';
import { ggufChatTemplate } from '../../src/gguf/chat-template.js';
import { modelfileText } from '../../src/gguf/modelfile.js';
import { tinyCheckpoint, tokenizerFolder, VERSION_NAMES, writePicture } from '../support/tiny.js';

const work = mkdtempSync(join(tmpdir(), 'gguf-template-'));
afterAll(() => rmSync(work, { recursive: true }));
const picture = join(work, 'square.bmp');
writePicture(picture, 56, 56, 1); // as large as a slice: not cut

const IMAGE = { image: picture };
interface Turn {
  readonly role: 'user' | 'assistant';
  readonly content: readonly (string | typeof IMAGE)[];
}
const user = (...content: Turn['content']): Turn => ({ role: 'user', content });
const answer = (text: string): Turn => ({ role: 'assistant', content: [text] });

/** Conversations as llama.cpp's clients write them. */
const CONVERSATIONS: readonly (readonly [string, readonly Turn[]])[] = [
  ['text', [user('Hello {{ world }}')]],
  ['several turns', [user('One?'), answer("It's 'one'."), user('Two?')]],
  ['a picture', [user(IMAGE, 'What is this?')]],
  ['two pictures', [user(IMAGE, IMAGE, 'Compare.')]],
  ['a picture after text', [user('Look:', IMAGE)]],
  ['pictures between texts', [user('First', IMAGE, 'second', IMAGE, 'done')]],
  ['pictures in two turns', [user(IMAGE, 'What?'), answer('A.'), user(IMAGE, 'And this?')]],
];

describe.each(VERSION_NAMES)('%s', (version) => {
  const folder = tinyCheckpoint(work, version);
  const encoder = PromptEncoder.open(folder);
  const template = chatTemplate(VERSIONS[version].llmType, Tokenizer.load(folder));
  const withOurs = join(work, `${version}-ours`);
  cpSync(tokenizerFolder(version), withOurs, { recursive: true });
  writeFileSync(join(withOurs, 'chat_template.jinja'), ggufChatTemplate(template));
  const tokenizer = Tokenizer.load(withOurs);

  /** llama.cpp joins the parts of a turn and puts a mark for each picture; later it puts the picture's tokens in its place. */
  const rendered = (conversation: readonly Turn[]): string => {
    const content = (parts: Turn['content']): string =>
      parts.map((part) => (typeof part === 'string' ? part : '<__media_aBc9__>')).join('');
    const messages = conversation.map(({ role, content: parts }) => ({ role, content: content(parts) }));
    const text = renderChatTemplate(tokenizer, messages, { add_generation_prompt: true });
    const features = (VERSIONS[version].config === 'nested' ? '<|image_pad|>' : template.tokenizer.unkToken).repeat(4);
    return text.replaceAll('<__media_aBc9__>', `<image>${features}</image>`);
  };

  // MiniCPM-V-2's answers are texts of their own in its history; llama.cpp reads one text
  const oneText = VERSIONS[version].llmType !== 'minicpm';
  it.each(CONVERSATIONS.filter(([, turns]) => oneText || turns.length === 1))('%s', async (_, conversation) => {
    const { inputIds } = await encoder.encode(conversation);
    const ids = await tokenizer.encode(rendered(conversation), { addSpecialTokens: true });
    expect(await tokenizer.decode(ids)).toBe(await tokenizer.decode([...inputIds]));
    expect(ids).toEqual([...inputIds]);
  });

  it('a new line that a client wrote after a picture is not doubled', () => {
    const [once, twice] = ['What?', '\nWhat?'].map((text) => rendered([user(IMAGE, text)]));
    expect(twice).toBe(once);
  });

  it('a system turn', async () => {
    const messages = [
      { role: 'system' as const, content: 'Be brief.' },
      { role: 'user' as const, content: 'Hello' },
    ];
    const render = (): string => renderChatTemplate(tokenizer, messages, { add_generation_prompt: true });
    if (template.header.system === null) return expect(render).toThrow('This model has no system turn.');
    const { inputIds } = await encoder.encode(messages);
    expect(await tokenizer.encode(render(), { addSpecialTokens: true })).toEqual([...inputIds]);
  });

  it("Ollama's Modelfile has the same words around turns", () => {
    const text = modelfileText({ model: 'a.gguf', mmproj: 'b.gguf', template });
    expect(text.split('\n').slice(0, 2)).toEqual(['FROM ./a.gguf', 'FROM ./b.gguf']);
    expect(text).toContain(`PARAMETER stop ${JSON.stringify(template.end)}`);
    const goTemplate = /TEMPLATE """([\s\S]*)"""/.exec(text)![1]!;
    expect(goTemplate).toContain(`${template.header.user}{{ .Content }}`);
    const last = `{{ end }}${template.header.assistant}${template.thinking?.empty ?? ''}`;
    expect(goTemplate.endsWith(last)).toBe(true);
    expect(goTemplate.match(/{{ (if|range|else if)/g)!.length - goTemplate.match(/{{ else if/g)!.length).toBe(
      goTemplate.match(/{{ end }}/g)!.length,
    );
  });
});
