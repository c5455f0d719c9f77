import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { LANGUAGES, UserError } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CHAT_FLAGS, CHAT_TEXT, resolveChatOptions } from '../../src/cli/chat/flags.js';
import { parseFlags } from '../../src/cli/command.js';
import { COMMANDS } from '../../src/cli/commands.js';
import { EXIT, reportError } from '../../src/cli/exit.js';
import { main } from '../../src/cli/main.js';
import { VERSION } from '../../src/version.js';
import { base, resolveTrainConfig, userError } from '../support/config-words.js';
import { makePlace, type Place } from '../support/run-place.js';

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
        /^error: Expected a command but received tarin\.\n cure: Did you mean train\? The commands are train, ui, chat, /,
      ),
    });
  });

  it('says what to do with the official command line pasted without a command', async () => {
    const { code, stderr } = await run(['--model_name_or_path', 'm']);
    expect(code).toBe(EXIT.usage);
    expect(stderr).toContain('cure: Write the command first: minicpm-finetune train --model_name_or_path …');
  });
});

const COLON = { en: ':', zh: '：' };

describe.each(LANGUAGES)('help of a command in %s', (language) => {
  const help = async (name: string) => run([name, '--help', '--lang', language]);

  it.each(COMMANDS.map((command) => [command.text.name, command] as const))(
    '%s: groups, flags, examples',
    async (name, command) => {
      const { code, stdout } = await help(name);
      expect(code).toBe(EXIT.ok);
      for (const heading of Object.values(command.text.headings)) {
        expect(stdout).toContain(`\n${heading[language]}${COLON[language]}\n`);
      }
      for (const flag of command.flags) {
        if (flag.notice === undefined) expect(stdout, flag.name).toContain(`--${flag.name}`);
        else expect(stdout, flag.name).not.toMatch(new RegExp(`--${flag.name}\\b`));
      }
      expect(stdout).toContain('--lang ');
      expect(stdout).toContain(command.text.examples[language]);
    },
  );

  it.each(['train', 'chat'])('%s: the examples are command lines that are accepted', (name) => {
    const command = COMMANDS.find(({ text }) => text.name === name)!;
    const examples = command.text.examples[language].replaceAll('\\\n', ' ');
    let count = 0;
    for (const [, subcommand, rest] of examples.matchAll(/^ {4}minicpm-finetune (\w+) (.*)$/gm)) {
      count++;
      expect(subcommand).toBe(name);
      const words = [...rest!.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain!);
      parseFlags(command.text, command.flags, words);
      if (name === 'train' && !words.includes('--recipe')) resolveTrainConfig(words);
    }
    expect(count).toBeGreaterThanOrEqual(2);
  });
});

describe('help', () => {
  it('shows defaults and choices', async () => {
    const text = (await run(['train', '--help'])).stdout.replaceAll(/\s+/g, ' ');
    expect(text).toContain('--learning_rate <x> Peak learning rate. (default: 0.00005)');
    expect(text).toContain('One of linear, cosine, cosine_with_restarts');
    expect(text).toContain('(default: true without --use_lora)');
    expect(text).toContain('--data_path <file...> Training data (JSON, JSON Lines, parquet). Required.');
    expect(text).toContain('auto: the best device there is (cuda, else mps, else cpu).');
    const chinese = (await run(['train', '--help', '--lang', 'zh'])).stdout.replaceAll(/\s+/g, ' ');
    expect(chinese).toContain('--learning_rate <x> 学习率峰值。（默认：0.00005）');
    expect(chinese).toContain('可选值：linear、');
    expect(chinese).toContain('--data_path <file...> 训练数据（JSON、JSON Lines 或 parquet）。必填。');
  });

  it.each([...COMMANDS.map(({ text }) => text.name), ''])(
    'in Chinese, %s has no English sentence and no long line',
    async (name) => {
      const { stdout } = await run([...(name === '' ? [] : [name]), '--help', '--lang', 'zh']);
      // what a line says apart from names, values, examples and the terms before two spaces
      for (const line of stdout.split('\n').filter((line) => !/^ {4,6}(minicpm|--)/.test(line))) {
        expect(line).not.toMatch(/[a-z]+ (?:the|of|a|is|to|and|for|are|with) [a-z]+/);
        const columns = [...line].reduce((sum, character) => sum + (/[\u2e80-\uffef]/.test(character) ? 2 : 1), 0);
        if (!line.includes('minicpm-finetune') && !line.includes('self_attn'))
          expect(columns, line).toBeLessThanOrEqual(80);
      }
    },
  );

  it('is in the language of --lang, before or after the command, otherwise of the locale', async () => {
    const chinese = (await run(['train', '--help', '--lang', 'zh'])).stdout;
    expect(chinese).toContain('用法：');
    for (const words of [
      ['--lang', 'zh', 'train', '--help'],
      ['--lang=zh', 'help', 'train'],
    ]) {
      expect((await run(words)).stdout).toBe(chinese);
    }
    const ofLocale = async (env: Record<string, string>) => (await run(['train', '--help'], env)).stdout === chinese;
    expect(await ofLocale({ LANG: 'zh_CN.UTF-8' })).toBe(true);
    expect(await ofLocale({ LC_MESSAGES: 'zh_TW', LANG: 'en_US.UTF-8' })).toBe(true);
    expect(await ofLocale({ LC_ALL: 'C', LANG: 'zh_CN.UTF-8' })).toBe(false);
    expect(await ofLocale({ LC_ALL: '', LANG: 'zh_CN.UTF-8' })).toBe(true);
    expect(await ofLocale({})).toBe(false);
    expect((await run(['train', '--help', '--lang', 'en'], { LANG: 'zh_CN' })).stdout).toContain('Usage: ');
    expect((await run([], { LANG: 'zh_CN.UTF-8' })).stderr).toContain('命令：');
  });

  it('refuses other languages', async () => {
    expect((await run(['train', '--lang', 'fr'])).stderr).toContain(
      'Expected one of en, zh for --lang but received "fr".',
    );
    expect((await run(['train', '--lang'])).stderr).toContain('Expected a value for --lang but received nothing.');
  });
});

describe('train', () => {
  let place: Place;
  /** Flags that name files which are there. */
  let real: string[];
  beforeAll(() => {
    place = makePlace(2);
    const { model, data, folder } = place;
    real = ['--model_name_or_path', model, '--data_path', data, '--output_dir', join(folder, 'out')];
  });
  afterAll(() => rmSync(place.folder, { recursive: true }));

  it.each([
    ['model_name_or_path', 'no model', /^error: Expected a folder with config.json .* received "no model"/],
    ['data_path', 'no.json', /^error: Expected a data file but there is no "no.json"/],
    ['eval_data_path', 'no.json', /no "no.json"[\s\S]*--eval_data_path/],
    ['lora_weight_path', 'nowhere', /^error: .*adapter.* received "nowhere"/],
    ['resume_from_checkpoint', 'latest', /^error: Expected a (complete )?checkpoint for --resume_from_checkpoint/],
    ['recipe', 'none.yaml', /^error: Expected a readable file for --recipe/],
    ['deepspeed', 'none.json', /^error: Expected a readable file for --deepspeed/],
    ['output_dir', 'package.json/a', /^error: Expected a folder for --output_dir .* which is a file/],
  ])('--dry_run looks whether the file of --%s is there', async (flag, value, message) => {
    const words = ['train', ...real, ...(flag === 'lora_weight_path' ? ['--use_lora'] : []), `--${flag}`, value];
    const { code, stderr } = await run([...words, '--dry_run']);
    expect(stderr).toMatch(message);
    expect(code).toBe(EXIT.usage);
    expect(existsSync(join(place.folder, 'out'))).toBe(false);
  });

  it('--dry_run says that a model would be downloaded', async () => {
    const { code, stderr } = await run(['train', ...real, '--model_name_or_path', 'no-owner/no-model', '--dry_run']);
    expect([code, stderr]).toEqual([EXIT.ok, expect.stringContaining('would download the model of that name')]);
  });

  it('--dry_run prints a recipe, and what it decided beside it', async () => {
    const { code, stdout, stderr } = await run(['train', ...real, '--dry_run', '--do_train', '--use_lora']);
    expect(code).toBe(EXIT.ok);
    expect(stderr).toContain('notice: --do_train true: accepted, without effect: this command always trains.\n');
    expect(stderr).toContain('LoRA scale = 64 / 64 = 1\n');
    const folder = mkdtempSync(join(tmpdir(), 'dry-'));
    writeFileSync(join(folder, 'r.yaml'), stdout);
    const again = resolveTrainConfig(['--recipe', join(folder, 'r.yaml')]);
    rmSync(folder, { recursive: true });
    expect(again.config).toEqual(resolveTrainConfig([...real, '--use_lora']).config);
  });

  it('--dry_run measure takes the steps of one rank of several, without the others', async () => {
    const words = ['--model_max_length', '64', '--max_slice_nums', '1', '--device', 'cpu', '--threads', '1'];
    const measure = async (env: Record<string, string>, ...more: string[]) =>
      await run(['train', ...real, '--dry_run', 'measure', ...words, ...more], env);
    const { code, stderr } = await measure({}, '--nproc_per_node', '2');
    expect({ code, stderr }).toMatchObject({
      code: EXIT.ok,
      stderr: expect.stringContaining('measured: tensors took '),
    });
    expect(stderr).toContain('measured: this is rank 0 of 2 without the others, whose gradients count as zeros\n');
    const torchrun = { RANK: '2', LOCAL_RANK: '2', WORLD_SIZE: '3', LOCAL_WORLD_SIZE: '3' };
    const third = await measure({ ...torchrun, MASTER_ADDR: 'localhost', MASTER_PORT: '29555' });
    expect(third.stderr).toContain(
      'measured: this is rank 2 of 3 without the others, whose gradients count as zeros\n',
    );
  });

  it('a mistake ends with 2 and without a stack', async () => {
    const { code, stdout, stderr } = await run(['train', ...base, '--lora_aplha', '3']);
    expect([code, stdout]).toEqual([EXIT.usage, '']);
    expect(stderr).toMatch(
      /^error: Expected a known flag but received --lora_aplha\.\n {3}at: --lora_aplha\n cure: Did you mean --lora_alpha\?.*\n$/,
    );
  });

  it('says notices in the language asked for', async () => {
    const words = ['train', ...real, '--dry_run', '--do_train', '--lora_r', '8', '--lang', 'zh'];
    const { stderr } = await run(words);
    expect(stderr).toContain('提示：--do_train true：已接受，但没有作用：此命令总是进行训练。\n');
    expect(stderr).toContain('提示：--lora_r 8：没有作用：use_lora 为 false。\n');
  });

  it('says what it is to several processes before anything is started', async () => {
    const dry = async (env: Record<string, string>, ...words: string[]) =>
      await run(['train', ...real, '--dry_run', ...words], env);
    const { code, stderr } = await dry({ WORLD_SIZE: '8' });
    expect(code).toBe(EXIT.usage);
    expect(stderr).toContain('Expected the variable RANK for one of several processes but it is not set.');
    expect((await dry({ WORLD_SIZE: '1' })).code).toBe(EXIT.ok);
    const shared = await dry({}, '--nproc_per_node', '3', '--device', 'cpu', '--zero_stage', '2');
    expect(shared.stderr).toMatch(/total batch = \d+ records × 1 accumulation × 3 devices/);
    expect(shared.stdout).toMatch(/zero_stage: "2"/);
    expect(shared.stdout).not.toContain('nproc_per_node');
  });
});

describe('chat options', () => {
  const options = (...words: string[]) => resolveChatOptions(parseFlags(CHAT_TEXT, CHAT_FLAGS, words));

  it('have defaults', () => {
    expect(options('--model', 'm')).toEqual({
      model: 'm',
      adapters: [],
      images: [],
      videos: [],
      prompt: null,
      system: null,
      maxNewTokens: 1024,
      temperature: 0,
      topP: 1,
      topK: 0,
      repetitionPenalty: 1,
      seed: 42,
      enableThinking: false,
      dtype: null,
      loadIn8Bit: false,
      maxSliceNums: null,
      scaleResolution: null,
      video: { fps: null, maxFrames: null, maxPacking: null, maxSliceNums: null },
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
    [new Error('x'), /hint: This is an unexpected error/],
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
