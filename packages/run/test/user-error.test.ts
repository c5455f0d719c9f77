import { describe, expect, it } from 'vitest';
import { expected, shown, UserError } from '../src/index.js';

describe('UserError', () => {
  it('formats sentence, place and cure on lines of their own', () => {
    const error = new UserError('Expected an image for <image_00> but received "a.txt".', {
      file: 'train.json',
      record: 12,
      turn: 0,
      cure: 'Give the path of a PNG or JPEG file.',
    });
    expect(error.message).toBe('Expected an image for <image_00> but received "a.txt".');
    expect(error.format()).toBe(
      [
        'error: Expected an image for <image_00> but received "a.txt".',
        '   at: train.json, record 12, turn 0',
        ' cure: Give the path of a PNG or JPEG file.',
      ].join('\n'),
    );
  });

  it('prints only what is known', () => {
    expect(new UserError('No.').format()).toBe('error: No.');
    expect(new UserError('No.', { flag: '--bf16' }).format()).toBe('error: No.\n   at: --bf16');
    expect(new UserError('No.', { file: 'r.yaml', line: 3 }).format()).toBe('error: No.\n   at: r.yaml:3');
    expect(new UserError('No.', { line: 3 }).format()).toBe('error: No.\n   at: line:3');
  });

  it('crosses threads as data', () => {
    const error = new UserError('No.', { file: 'a', record: 0, turn: 1, cure: 'Do.' });
    const back = UserError.fromData(structuredClone(error.toData()));
    expect(back).toBeInstanceOf(UserError);
    expect(back.format()).toBe(error.format());
  });

  it('lets an outer layer add the place without overwriting the inner one', () => {
    const cause = new Error('inner');
    const error = new UserError('No.', { turn: 2, file: 'image.png', cause });
    const outer = error.at({ file: 'train.json', record: 7 });
    expect(outer.details()).toEqual({ file: 'image.png', record: 7, turn: 2 });
    expect(outer.cause).toBe(cause);
    expect(outer.stack).toBe(error.stack);
  });

  it('keeps the cause', () => {
    const cause = new Error('ENOENT');
    expect(new UserError('No.', { cause }).cause).toBe(cause);
    expect(Object.hasOwn(new UserError('No.'), 'cause')).toBe(false);
  });
});

describe('expected', () => {
  it('has one wording', () => {
    expect(expected('a positive number', '--lora_r', -1).message).toBe(
      'Expected a positive number for --lora_r but received -1.',
    );
    expect(expected('text', 'content', 'x').message).toBe('Expected text for content but received "x".');
    expect(expected('text', 'content', undefined).message).toBe('Expected text for content but received nothing.');
    expect(expected('text', 'content', [1, null]).message).toBe('Expected text for content but received [1,null].');
  });

  it('shows values of every kind and cuts long ones', () => {
    expect(shown(Number.NaN)).toBe('NaN');
    expect(shown(Number.POSITIVE_INFINITY)).toBe('Infinity');
    expect(shown(10n)).toBe('10');
    expect(shown(() => 1)).toBe('function');
    const circular: Record<string, unknown> = {};
    circular.self = circular;
    expect(shown(circular)).toMatch(/^(\{"self":)+…$/);
    expect(shown('x'.repeat(500))).toBe(`"${'x'.repeat(80)}…" (500 characters)`);
  });
});
