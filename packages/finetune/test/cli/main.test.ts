import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { UserError } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CHAT_FLAGS, CHAT_TEXT, resolveChatOptions } from '../../src/cli/chat/flags.js';
import { parseFlags } from '../../src/cli/command.js';
import { COMMANDS } from '../../src/cli/commands.js';
import { EXIT, reportError } from '../../src/cli/exit.js';
import { main } from '../../src/cli/main.js';
import { resolveTrainConfig } from '../../src/cli/train/command.js';
import { TRAIN_FLAGS } from '../../src/config/resolve.js';
import { VERSION } from '../../src/version.js';
import { base, userError } from '../support/config-words.js';

class Captured {
  text = '';
  write(text: string): void {
    this.text += text;
  }
}

async function run(words: string[], env: Record<string, string> = {}) {
  const [stdout, stderr] = [new Captured(), new Captured()];
  const code = await main(words, { stdout, stderr, env });
  return { code, stdout: stdout.text, stderr: stderr.text };
}

describe('minicpm-finetune', () => {
  it('lists its commands', async () => {
    const { code, stdout, stderr } = await run(['--help']);
    expect([code, stderr]).toEqual([EXIT.ok, '']);
    for (const { text } of COMMANDS) expect(stdout).toContain(`${text.name} `);
    expect((await run(['help'])).stdout).toBe(stdout);
    const nothing = await run([]);
    expect([nothing.code, nothing.stdout, nothing.stderr]).toEqual([EXIT.usage, '', stdout]);
  });

  it('prints its version', async () => {
    expect(await run(['--version'])).toEqual({ code: EXIT.ok, stdout: `${VERSION}\n`, stderr: '' });
    expect(VERSION).toMatch(/^\d+\.\d+\.\d+$/);
  });

  it('names the nearest command', async () => {
    expect(await run(['tarin'])).toEqual({
      code: EXIT.usage,
      stdout: '',
      stderr: expect.stringMatching(
        /^error: Expected a command but received tarin\.\n cure: Did you mean train\? The commands are train, chat/,
      ),
    });
  });

  it('says what to do with the official command line pasted without a command', async () => {
    const { code, stderr } = await run(['--model_name_or_path', 'm']);
    expect(code).toBe(EXIT.usage);
    expect(stderr).toContain('cure: Write the command first: minicpm-finetune train --model_name_or_path …');
  });
});

describe('help of a command', () => {
  it.each(COMMANDS.map((command) => [command.text.name, command] as const))(
    '%s: groups, flags, examples',
    async (name, command) => {
      const { code, stdout } = await run([name, '--help']);
      expect(code).toBe(EXIT.ok);
      for (const heading of Object.values(command.text.headings)) expect(stdout).toContain(`\n${heading}\n`);
      for (const flag of command.flags) {
        if (flag.notice === undefined) expect(stdout, flag.name).toContain(`--${flag.name}`);
        else expect(stdout, flag.name).not.toMatch(new RegExp(`--${flag.name}\\b`));
      }
      expect(stdout).toContain(command.text.examples);
    },
  );

  it('train: shows defaults and choices', async () => {
    const text = (await run(['train', '--help'])).stdout.replaceAll(/\s+/g, ' ');
    expect(text).toContain('--learning_rate <x> Peak learning rate. (default: 0.00005)');
    expect(text).toContain('One of linear, cosine, cosine_with_restarts');
    expect(text).toContain('(default: true without --use_lora)');
    expect(text).toContain('--data_path <file...> Training data (JSON, JSON Lines, parquet). Required.');
  });

  it.each(['train', 'chat'])('%s: the examples are command lines that are accepted', (name) => {
    const command = COMMANDS.find(({ text }) => text.name === name)!;
    const lines = command.text.examples.replaceAll('\\\n', ' ').matchAll(/^ {4}minicpm-finetune (\w+) (.*)$/gm);
    let count = 0;
    for (const [, subcommand, rest] of lines) {
      count++;
      expect(subcommand).toBe(name);
      const words = [...rest!.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
      parseFlags(command.text, command.flags, words);
      if (name === 'train' && !words.includes('--recipe')) resolveTrainConfig(words);
    }
    expect(count).toBeGreaterThanOrEqual(2);
  });
});

describe('train', () => {
  it('--dry_run prints a recipe, and what it decided beside it', async () => {
    const { code, stdout, stderr } = await run(['train', ...base, '--dry_run', '--do_train', '--use_lora']);
    expect(code).toBe(EXIT.ok);
    expect(stderr).toContain('notice: --do_train true: accepted, without effect: this command always trains.\n');
    expect(stderr).toContain('LoRA scale = 64 / 64 = 1\n');
    const folder = mkdtempSync(join(tmpdir(), 'dry-'));
    writeFileSync(join(folder, 'r.yaml'), stdout);
    const again = resolveTrainConfig(['--recipe', join(folder, 'r.yaml')]);
    rmSync(folder, { recursive: true });
    expect(again.config).toEqual(resolveTrainConfig([...base, '--use_lora']).config);
  });

  it('a mistake ends with 2 and without a stack', async () => {
    const { code, stdout, stderr } = await run(['train', ...base, '--lora_aplha', '3']);
    expect([code, stdout]).toEqual([EXIT.usage, '']);
    expect(stderr).toMatch(
      /^error: Expected a known flag but received --lora_aplha\.\n {3}at: --lora_aplha\n cure: Did you mean --lora_alpha\?.*\n$/,
    );
  });

  it('refuses to be one of several processes', async () => {
    const { code, stderr } = await run(['train', ...base, '--dry_run'], { WORLD_SIZE: '8' });
    expect(code).toBe(EXIT.usage);
    expect(stderr).toContain('Expected one process but received WORLD_SIZE=8.');
    expect((await run(['train', ...base, '--dry_run'], { WORLD_SIZE: '1' })).code).toBe(EXIT.ok);
  });
});

describe('chat options', () => {
  const options = (...words: string[]) => resolveChatOptions(parseFlags(CHAT_TEXT, CHAT_FLAGS, words));

  it('have defaults', () => {
    expect(options('--model', 'm')).toEqual({
      model: 'm',
      adapters: [],
      images: [],
      prompt: null,
      system: null,
      maxNewTokens: 1024,
      temperature: 0,
      topP: 1,
      topK: 0,
      repetitionPenalty: 1,
      seed: 42,
      dtype: null,
      maxSliceNums: null,
      device: 'auto',
      threads: null,
    });
  });

  it('take several adapters and pictures', () => {
    const given = options(
      '--model',
      'm',
      '--adapter',
      'a',
      '--adapter',
      'b',
      '--image',
      'x y.png',
      'z.png',
      '--top_k=5',
    );
    expect(given).toMatchObject({ adapters: ['a', 'b'], images: ['x y.png', 'z.png'], topK: 5 });
  });

  it('need a model, and values in range', () => {
    expect(userError(() => options()).message).toBe('Expected a value for --model but received nothing.');
    expect(userError(() => options('--model', 'm', '--top_p', '0')).message).toMatch(
      /above 0 and of at most 1 for --top_p/,
    );
  });
});

describe('failures', () => {
  const report = (error: unknown) => {
    const stream = new Captured();
    return { code: reportError(error, stream), text: stream.text };
  };

  it('of the user: the formatted error alone', () => {
    const error = new UserError('Expected a but received b.', { file: 'f', cure: 'C.' });
    expect(report(error)).toEqual({ code: EXIT.usage, text: `${error.format()}\n` });
  });

  it.each<[unknown, RegExp]>([
    [Object.assign(new Error('write failed'), { code: 'ENOSPC' }), /hint: The disk is full/],
    [new Error('DefaultCPUAllocator: not enough memory: you tried to allocate 5 bytes'), /hint: Memory ran out/],
    [Object.assign(new Error('x'), { code: 'ERR_MODULE_NOT_FOUND' }), /hint: .*npm run setup/],
    [new Error('x'), /hint: This was not foreseen/],
    ['a text', /^a text\n hint: /],
  ])('of the machine: stack and hint', (error, text) => {
    const reported = report(error);
    expect(reported.code).toBe(EXIT.failure);
    expect(reported.text).toMatch(text);
    if (error instanceof Error) expect(reported.text).toContain('main.test.ts');
  });
});

describe('the launcher', () => {
  let empty: string;
  beforeAll(() => {
    empty = mkdtempSync(join(tmpdir(), 'launch-'));
  });
  afterAll(() => rmSync(empty, { recursive: true }));

  it('runs from any folder and hands the exit code on', () => {
    const launcher = fileURLToPath(new URL('../../bin/minicpm-finetune.js', import.meta.url));
    const start = (...words: string[]) =>
      spawnSync(process.execPath, [launcher, ...words], { cwd: empty, encoding: 'utf8' });
    expect(start('--version')).toMatchObject({ status: EXIT.ok, stdout: `${VERSION}\n` });
    expect(start('train', '--lora_aplha')).toMatchObject({ status: EXIT.usage, stdout: '' });
  });
});

it('every flag of train has a place in help or a notice', () => {
  const trainText = COMMANDS.find(({ text }) => text.name === 'train')!.text;
  for (const flag of TRAIN_FLAGS) {
    if (flag.notice === undefined) {
      expect(trainText.headings, flag.name).toHaveProperty(flag.group);
      expect(flag.help, flag.name).toMatch(/\.$/);
    } else expect(flag.notice, flag.name).not.toMatch(/\.$/);
  }
});
