/** Records of preference tuning in the forms of other tools. */
import { describe, expect, it } from 'vitest';
import { recordsAt } from '../support/records.js';

const PLACE = { file: 'pairs.json', record: 3 };
const { normalize, refused } = recordsAt(PLACE);

const user = { role: 'user', content: 'What is it?' };
const assistant = (content: string) => ({ role: 'assistant', content });
const PAIR = [
  [user, assistant('a cat')],
  [user, assistant('a dog')],
];

function answersOf(raw: unknown): unknown[] {
  const { conversations, rejected } = normalize(raw);
  return [conversations, rejected?.conversations];
}

describe('pairs', () => {
  it.each([
    ['TRL', { prompt: [user], chosen: [assistant('a cat')], rejected: [assistant('a dog')] }],
    ['TRL, the prompt in the answers', { chosen: [user, assistant('a cat')], rejected: [user, assistant('a dog')] }],
    ['TRL, text', { prompt: 'What is it?', chosen: 'a cat', rejected: 'a dog' }],
    ['ms-swift', { messages: [user, assistant('a cat')], rejected_response: 'a dog' }],
    ['ms-swift, turns', { messages: [user, assistant('a cat')], rejected_response: [assistant('a dog')] }],
    ['ms-swift, messages', { messages: [user, assistant('a cat')], rejected_messages: [user, assistant('a dog')] }],
    [
      'LLaMA-Factory',
      {
        conversations: [{ from: 'human', value: 'What is it?' }],
        chosen: { from: 'gpt', value: 'a cat' },
        rejected: { from: 'gpt', value: 'a dog' },
      },
    ],
    ['LLaMA-Factory, alpaca', { instruction: 'What is it?', input: '', chosen: 'a cat', rejected: 'a dog' }],
    ['RLAIF-V', { question: 'What is it?', chosen: 'a cat', rejected: 'a dog', ds_name: 'x', idx: 1 }],
    ['ours', { conversations: [user, assistant('a cat')], rejected: 'a dog' }],
    ['ours, turns', { conversations: [user, assistant('a cat')], rejected: [assistant('a dog')] }],
  ])('%s', (_, raw) => {
    expect(answersOf(raw)).toEqual(PAIR);
  });

  it('shows pictures to both answers, or another one to the rejected', () => {
    const bytes = Uint8Array.of(0xff, 0xd8, 1);
    const other = Uint8Array.of(0xff, 0xd8, 2);
    const one = normalize({ question: 'What is it?', chosen: 'a', rejected: 'b', image: { bytes, path: null } });
    expect(one.rejected!.image).toBe(one.image);
    const listed = { messages: [{ role: 'user', content: '<image>What?' }, assistant('a')], images: [bytes] };
    expect(normalize({ ...listed, rejected_response: 'b' }).rejected!.image).toEqual(bytes);
    const changed = normalize({ ...listed, rejected_images: [other] });
    expect([changed.image, changed.rejected!.image]).toEqual([bytes, other]);
    const about = { image: bytes, rejected_image: other };
    const pictured = normalize({ ...about, messages: [{ role: 'user', content: '<image>What?' }, assistant('a')] });
    expect([pictured.rejected!.image, pictured.comparedKey]).toEqual([other, 'rejected_image']);
    const parts = [{ role: 'user', content: [{ type: 'image' }, { type: 'text', text: 'What?' }] }];
    const trl = normalize({ prompt: parts, chosen: [assistant('a')], rejected: [assistant('b')], images: [bytes] });
    expect(trl.conversations[0]!.content).toBe('<image>What?');
    expect(trl.rejected!.image).toBe(trl.image);
  });

  it('keeps earlier turns and the system prompt', () => {
    const turns = [user, assistant('a cat'), { role: 'user', content: 'Sure?' }, assistant('yes')];
    const [chosen, rejected] = answersOf({ system: 'Be brief.', messages: turns, rejected: 'no' }) as unknown[][];
    expect(chosen).toHaveLength(5);
    expect(rejected!.slice(0, 4)).toEqual(chosen!.slice(0, 4));
    expect(rejected!.at(-1)).toEqual(assistant('no'));
  });

  it('refuses another video for the rejected answer, by name', () => {
    const pair = {
      video: 'a.mp4',
      messages: [{ role: 'user', content: '<video>What?' }, assistant('a')],
      rejected: 'b',
    };
    for (const key of ['rejected_video', 'rejected_videos'])
      expect(refused({ ...pair, [key]: 'b.mp4' })).toMatchObject({
        key,
        cure: expect.stringContaining('the same video'),
      });
  });

  it('refuses what nothing can be learned from', () => {
    expect(refused({ prompt: 'a', chosen: 'b', rejected: 'b' }).message).toMatch(
      /chosen and rejected are the same: "b"/,
    );
    expect(refused({ prompt: 'a', chosen: 'b', rejected: '  ' }).message).toMatch(/an answer for the key rejected/);
    expect(refused({ prompt: 'a', chosen: [assistant('')], rejected: [assistant('b')] }).message).toMatch(
      /text for the chosen answer/,
    );
    expect(refused({ prompt: 'a', chosen: 'b' }).message).toMatch(/the key rejected beside chosen/);
    expect(refused({ prompt: 'a', rejected: 'b' }).message).toMatch(/the key chosen beside rejected/);
    expect(refused({ prompt: 'a', chosen: 'b', rejected: 'c', rejected_answer: 'd' }).message).toMatch(
      /rejected_answer/,
    );
  });
});

describe('answers called good or bad', () => {
  it.each([
    ['TRL', { prompt: 'What is it?', completion: 'a cat', label: false }],
    ['TRL, turns', { prompt: [user], completion: [assistant('a cat')], label: false }],
    ['ms-swift', { messages: [user, assistant('a cat')], label: false }],
    [
      'LLaMA-Factory',
      {
        conversations: [
          { from: 'human', value: 'What is it?' },
          { from: 'gpt', value: 'a cat' },
        ],
        kto_tag: false,
      },
    ],
  ])('%s', (_, raw) => {
    const record = normalize(raw);
    expect(record.conversations).toEqual([user, assistant('a cat')]);
    expect(record.desirable).toBe(false);
    expect(record.rejected).toBeUndefined();
  });

  it('wants true or false beside a completion', () => {
    const error = refused({ prompt: 'What is it?', completion: 'a cat', label: 'good' });
    expect(error.message).toContain('Expected true or false for the key label of a record but received "good"');
  });

  it('leaves other labels alone', () => {
    expect(normalize({ messages: [user, assistant('a')], label: 'cat' }).desirable).toBeUndefined();
    expect(refused({ conversations: [user, assistant('a')], kto_tag: 'yes' }).message).toMatch(/true or false/);
  });
});
