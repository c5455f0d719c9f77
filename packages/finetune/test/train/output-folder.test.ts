/** Whose the output folder is: what a run refuses to replace, what it removes of an earlier one, and what a failed start leaves. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { contentOfFile, OwnFiles, type RunEvent, UserError } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { SILENT } from '../../src/report/reporter.js';
import { dryRun } from '../../src/train/dry-run.js';
import { checkOutput } from '../../src/train/output-folder.js';
import { train } from '../../src/train/train.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { configOf, eventsOf, makePlace, type Place } from '../support/run-place.js';
import { tinyAdapter } from '../support/tiny-model.js';

type Flags = Readonly<Record<string, unknown>>;
const LORA = { use_lora: true, lora_r: 2, max_steps: 1 };

let place: Place;
const at = (...names: string[]): string => join(place.folder, ...names);
const run = (name: string, flags: Flags = {}, options = {}) =>
  train(configOf(place, name, { ...LORA, ...flags }), options);

/** Every file below a folder with its checksum. */
function contents(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
    statSync(join(folder, name)).isFile(),
  );
  return Object.fromEntries(names.sort().map((name) => [name, contentOfFile(join(folder, name)).sha256]));
}

function write(path: string, text: string): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

/** The start and the dry run are refused with such a message, and nothing in the folder is touched. */
async function refused(name: string, flags: Flags, message: RegExp): Promise<void> {
  const before = contents(at(name));
  const config = configOf(place, name, { ...LORA, ...flags });
  expect(() => checkOutput(config)).toThrow(message);
  await expect(train(config)).rejects.toThrow(message);
  expect(contents(at(name))).toEqual(before);
}

beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

describe('the folder of the model or the adapter', () => {
  beforeAll(() => {
    cpSync(place.model, at('base'), { recursive: true });
    symlinkSync(at('base'), at('link'));
    tinyAdapter(place.model, at('adapter'));
  });

  it.each(['base', './base/', 'link', 'link/', 'base/../base'])(
    '%s is refused, whatever the flags say',
    async (path) => {
      const output_dir = `${place.folder}/${path}`;
      for (const more of [{}, { overwrite_output_dir: true }, { resume_from_checkpoint: 'latest' }]) {
        await refused(
          'base',
          { model_name_or_path: at('base'), output_dir, ...more },
          /which is that of --model_name_or_path/,
        );
      }
      await refused('base', { model_name_or_path: at('link'), output_dir }, /which is that of --model_name_or_path/);
      const relative_path = relative(process.cwd(), output_dir);
      await refused('base', { model_name_or_path: at('base'), output_dir: relative_path }, /which is that of/);
    },
  );

  it('of --lora_weight_path is refused', async () => {
    await refused(
      'adapter',
      { lora_weight_path: at('adapter'), lora_r: 4, overwrite_output_dir: true },
      /which is that of --lora_weight_path/,
    );
  });

  it('inside of the output folder is refused with --overwrite_output_dir', async () => {
    mkdirSync(at('around'));
    cpSync(at('base'), at('around', 'base'), { recursive: true });
    const flags = { model_name_or_path: at('around', 'base'), overwrite_output_dir: true };
    await refused('around', flags, /which holds --model_name_or_path/);
    await run('around', { model_name_or_path: at('around', 'base') }); // nothing is overwritten
    expect(existsSync(at('around', 'base', 'model.safetensors'))).toBe(true);
  });

  it('may have the output folder inside', async () => {
    const before = contents(at('base'));
    await run('base/lora', { model_name_or_path: at('base') });
    expect(existsSync(at('base', 'lora', 'adapter_model.safetensors'))).toBe(true);
    rmSync(at('base', 'lora'), { recursive: true });
    expect(contents(at('base'))).toEqual(before);
  });
});

describe('a file that the run would replace', () => {
  const cases: readonly (readonly [file: string, flags: Flags])[] = [
    ['run.json', {}],
    ['events.jsonl', {}],
    ['trainer_state.json', {}],
    ['run_files.jsonl', {}],
    ['checkpoint-7/notes.txt', {}],
    ['adapter_config.json', {}],
    ['adapter_model.safetensors', {}],
    ['minicpm_manifest.json', {}],
    ['other.safetensors', {}],
    ['nonfinite', {}],
    ['nonfinite/step-1/notes.txt', {}],
    ['.unfinished/notes.txt', {}],
    ['STOP', {}],
    ['profile.json', { profile: 1 }],
    ['bad_records.jsonl', { on_bad_record: 'skip' }],
    ['logs', { report_to: 'tensorboard' }],
    ['eval', { eval_generate: 1, eval_strategy: 'steps', eval_steps: 1 }],
    ['eval/step-1/answers.jsonl', { eval_generate: 1, eval_strategy: 'steps', eval_steps: 1 }],
    ['eval/images/0-0.bmp', { eval_generate: 1, eval_strategy: 'steps', eval_steps: 1 }],
    ['tokenizer.json', { use_lora: false }],
    ['config.json', { use_lora: false }],
  ];
  /** Known when the model is found. */
  const withModel = new Set(['adapter_config.json', 'minicpm_manifest.json', 'tokenizer.json', 'config.json']);

  it.each(cases)('%s is refused before the first step, with its name', async (file, flags) => {
    const name = `taken ${file.replaceAll('/', ' ')}`;
    write(at(name, file), 'mine');
    write(at(name, 'beside.txt'), 'mine, too');
    const before = contents(at(name));
    const evaluation = 'eval_generate' in flags ? { eval_data_path: place.data } : {};
    for (const overwrite_output_dir of [false, true]) {
      const config = configOf(place, name, { ...LORA, ...flags, ...evaluation, overwrite_output_dir });
      if (!withModel.has(file)) expect(() => checkOutput(config)).toThrow(file);
      await expect(train(config)).rejects.toThrow(file);
      expect(contents(at(name))).toEqual(before);
    }
  });

  it('is not one of the run without the flag that writes it; other files are left alone', async () => {
    for (const file of ['profile.json', 'bad_records.jsonl', 'logs', 'eval', 'notes.txt', 'tokenizer.json'])
      write(at('beside', file), 'mine');
    const before = contents(at('beside'));
    await run('beside');
    expect(contents(at('beside'))).toMatchObject(before);
  });

  it('a lock that is none is refused', async () => {
    write(at('locked', 'run.lock'), 'mine');
    await expect(run('locked')).rejects.toThrow(/run\.lock, which is something else/);
    expect(readFileSync(at('locked', 'run.lock'), 'utf8')).toBe('mine');
  });
});

describe('--overwrite_output_dir', () => {
  const flags = {
    save_strategy: 'steps',
    save_steps: 1,
    report_to: 'tensorboard',
    profile: 1,
    eval_generate: 1,
    do_eval: true,
  };

  beforeAll(async () => {
    write(
      at('earlier', 'eval', 'eval.json'),
      readFileSync(place.data, 'utf8').replaceAll('"image":"', '"image":"../../'),
    );
    write(at('earlier', 'logs', 'notes.txt'), 'mine');
    await run('earlier', { ...flags, eval_data_path: at('earlier', 'eval', 'eval.json') });
  });
  const start = (more: Flags = {}) =>
    run('earlier', {
      ...flags,
      eval_data_path: at('earlier', 'eval', 'eval.json'),
      overwrite_output_dir: true,
      ...more,
    });

  it('removes the files of the earlier run, and nothing else', async () => {
    const first = contents(at('earlier'));
    expect(Object.keys(first)).toEqual(
      expect.arrayContaining(['eval/step-1/answers.jsonl', 'profile.json', 'run.json']),
    );
    write(at('earlier', 'mine.txt'), 'mine');
    await start({ max_steps: 2, profile: 0 });
    const second = contents(at('earlier'));
    expect(second).toMatchObject({
      'eval/eval.json': first['eval/eval.json'],
      'logs/notes.txt': first['logs/notes.txt'],
    });
    expect(second).toHaveProperty(['mine.txt']);
    expect(second).not.toHaveProperty(['profile.json']);
    expect(second).not.toHaveProperty(['eval/step-1/answers.jsonl']);
    expect(Object.keys(second)).toEqual(
      expect.arrayContaining(['checkpoint-1/manifest.json', 'checkpoint-2/manifest.json']),
    );
    const boards = (files: object) => Object.keys(files).filter((name) => name.includes('tfevents'));
    expect(boards(second)).toHaveLength(1);
    expect(boards(second)).not.toEqual(boards(first));
    expect(eventsOf(at('earlier'), 'run_start')).toHaveLength(1);
    expect(eventsOf(at('earlier'), 'eval').at(-1)).toMatchObject({ samples: 8 });
  });

  it('leaves the earlier run whole when the new one does not start', async () => {
    const before = contents(at('earlier'));
    await expect(start({ data_path: at('nowhere.json') })).rejects.toThrow(/nowhere\.json/);
    await expect(start({ lora_target_modules: 'nothing' })).rejects.toThrow(UserError);
    expect(contents(at('earlier'))).toEqual(before);
  });

  it.each([
    'run.json',
    'adapter_config.json',
    'checkpoint-1/adapter_model.safetensors',
    'checkpoint-2/run.json',
    'events.jsonl',
  ])('refuses what someone changed since: %s', async (file) => {
    const before = readFileSync(at('earlier', file));
    appendFileSync(at('earlier', file), '\n');
    await expect(start()).rejects.toThrow(new RegExp(`holds .*${file.replaceAll('.', '\\.')}.* changed since`));
    expect(readFileSync(at('earlier', file)).length).toBe(before.length + 1);
    writeFileSync(at('earlier', file), before);
  });

  it('refuses what someone put into a checkpoint', async () => {
    write(at('earlier', 'checkpoint-1', 'README.md'), 'mine');
    await expect(start()).rejects.toThrow(/checkpoint-1\/README\.md/);
    rmSync(at('earlier', 'checkpoint-1', 'README.md'));
  });

  it('refuses a DeepSpeed file of the earlier run that only a recipe names', async () => {
    const before = contents(at('earlier'));
    write(
      at('recipe.yaml'),
      `deepspeed: ${at('earlier', 'checkpoint-1', 'trainer_state.json')}\noverwrite_output_dir: true\n`,
    );
    const words = Object.entries({ data_path: place.data, model_name_or_path: place.model, output_dir: at('earlier') });
    const { config } = resolveTrainConfig([
      '--recipe',
      at('recipe.yaml'),
      ...words.flatMap(([flag, value]) => [`--${flag}`, value]),
    ]);
    expect(() => checkOutput(config)).toThrow(/trainer_state\.json belongs to the earlier run/);
    await expect(train(config)).rejects.toThrow(/trainer_state\.json belongs to the earlier run/);
    expect(contents(at('earlier'))).toEqual(before);
  });

  it.each(['data_path', 'eval_data_path'])(
    'refuses pictures of the earlier run that the records of --%s show',
    async (flag) => {
      const before = contents(at('earlier'));
      const picture = Object.keys(before).find((name) => /^eval\/images\/./.test(name))!;
      const turns = [
        { role: 'user', content: '<image>\nQ' },
        { role: 'assistant', content: 'A' },
      ];
      const records = [{ conversations: turns.map((turn) => ({ ...turn, content: 'x' })) }, { conversations: turns }];
      symlinkSync(at('earlier', picture), at(`shown-${flag}.bmp`));
      for (const [name, image] of [
        ['direct', at('earlier', picture)],
        ['link', `shown-${flag}.bmp`],
      ] as const) {
        const file = at(`shown-${flag}-${name}.json`);
        write(file, JSON.stringify([records[0], { ...records[1], image }]));
        const data = { eval_data_path: place.data, [flag]: file };
        const error = await start(data).catch((cause: unknown) => cause);
        expect(error).toMatchObject({
          message: expect.stringContaining('belongs to the earlier run'),
          record: 1,
          file,
        });
        const words = configOf(place, 'earlier', { ...LORA, ...flags, overwrite_output_dir: true, ...data });
        await expect(dryRun(words, { reporter: SILENT })).rejects.toThrow('belongs to the earlier run');
      }
      expect(contents(at('earlier'))).toEqual(before);
      await run('shows', {
        ...flags,
        [flag]: at(`shown-${flag}-link.json`),
        eval_data_path: place.data,
        overwrite_output_dir: true,
      });
    },
  );

  it('refuses an input of the command line that the earlier run wrote', async () => {
    const before = contents(at('earlier'));
    await expect(start({ lora_weight_path: at('earlier', 'checkpoint-1') })).rejects.toThrow(
      /which holds --lora_weight_path/,
    );
    const recipe = ['--recipe', at('earlier', 'run.json'), '--overwrite_output_dir'];
    const { config } = resolveTrainConfig(recipe);
    expect(() => checkOutput(config)).toThrow(/run\.json belongs to the earlier run/);
    await expect(train(config)).rejects.toThrow(/run\.json belongs to the earlier run/);
    mkdirSync(at('linked'));
    for (const name of readdirSync(place.model)) symlinkSync(join(place.model, name), at('linked', name));
    symlinkSync(at('earlier', 'checkpoint-1', 'run.json'), at('linked', 'run.json'));
    await expect(start({ model_name_or_path: at('linked') })).rejects.toThrow(
      /linked\/run\.json belongs to the earlier run/,
    );
    expect(contents(at('earlier'))).toEqual(before);
  });

  it('of a run without a list (of an earlier version) is refused with the names; resumed, it has a list', async () => {
    await run('older', { save_strategy: 'steps', save_steps: 1, max_steps: 2 });
    rmSync(at('older', 'run_files.jsonl'));
    await refused('older', {}, /holds an earlier run/);
    await refused('older', { overwrite_output_dir: true }, /no run_files\.jsonl: .*run\.json.*/);
    rmSync(at('older', 'trainer_state.json'));
    write(at('older', 'notes.json'), 'mine');
    await run('older', { save_strategy: 'steps', save_steps: 1, max_steps: 2, resume_from_checkpoint: 'latest' });
    const own = new OwnFiles(at('older'));
    for (const name of ['checkpoint-1', 'checkpoint-2', 'run.json', 'adapter_model.safetensors'])
      expect(own.ownership(name), name).toBe('own');
    expect(own.ownership('notes.json')).toBe('foreign');
  });

  it('checkpoints of an earlier version, proven by their manifests, are removed', async () => {
    await run('proven', { save_strategy: 'steps', save_steps: 1 });
    for (const name of readdirSync(at('proven'))) if (name !== 'checkpoint-1') rmSync(at('proven', name));
    await refused('proven', {}, /holds checkpoint-1\//);
    await run('proven', { overwrite_output_dir: true });
    expect(existsSync(at('proven', 'checkpoint-1'))).toBe(false);
  });
});

describe('a start that fails before the first step', () => {
  it.each([
    ['missing data', { data_path: 'nowhere.json' }],
    ['a missing model', { model_name_or_path: './nowhere' }],
    ['layers that are not there', { lora_target_modules: 'nothing' }],
  ] as const)('leaves nothing: %s', async (_, flags) => {
    await expect(run('failed/a/b', flags)).rejects.toThrow(UserError);
    expect(existsSync(at('failed'))).toBe(false);
    mkdirSync(at('failed'));
    await expect(run('failed', flags)).rejects.toThrow(UserError);
    expect(readdirSync(at('failed'))).toEqual([]);
    await run('failed');
    rmSync(at('failed'), { recursive: true });
  });

  it('leaves nothing: weights that are not safetensors', async () => {
    cpSync(place.model, at('broken'), { recursive: true });
    writeFileSync(at('broken', 'model.safetensors'), 'no weights');
    await expect(run('on broken', { model_name_or_path: at('broken') })).rejects.toThrow(UserError);
    expect(existsSync(at('on broken'))).toBe(false);
  });

  it('is known to be without a step: what it wrote makes way for the corrected command', async () => {
    const abort = (event: RunEvent): void => {
      if (event.event === 'run_start') throw new Error('no step');
    };
    await expect(run('no step', {}, { onEvent: abort })).rejects.toThrow('no step');
    expect(existsSync(at('no step', 'run.json'))).toBe(true);
    await run('no step');
    expect(eventsOf(at('no step'), 'run_start')).toHaveLength(1);
    await expect(run('no step')).rejects.toThrow(/holds an earlier run/);
  });
});

describe('a run folder', () => {
  const flags = { max_steps: 2, save_strategy: 'steps', save_steps: 1 };

  it('that is finished says so when it is resumed, and nothing changes', async () => {
    await run('finished', flags);
    const before = contents(at('finished'));
    const said: string[] = [];
    const reporter = { ...SILENT, notice: (message: string) => said.push(message) };
    const resumed = { ...flags, resume_from_checkpoint: 'latest' };
    expect(await run('finished', resumed, { reporter })).toMatchObject({ stopped: null, steps: 2 });
    expect(said).toEqual([
      `The run in ${at('finished')} is finished: all 2 steps were taken, and the trained adapter is there. Nothing is left to do.`,
    ]);
    expect(contents(at('finished'))).toEqual(before);
  });

  it('that was moved is resumed, and knows its best checkpoint', async () => {
    const best = {
      ...flags,
      max_steps: 3,
      eval_data_path: place.data,
      eval_strategy: 'steps',
      eval_steps: 1,
      load_best_model_at_end: true,
    };
    const stop = ({ event }: RunEvent): void => {
      if (event === 'eval' && !existsSync(at('before', 'STOP'))) writeFileSync(at('before', 'STOP'), '');
    };
    await run('before', { ...best, learning_rate: 0.5 }, { onEvent: stop });
    renameSync(at('before'), at('after'));
    const said: string[] = [];
    const onEvent = (event: RunEvent): void => {
      if (event.event === 'warning') said.push(event.message);
    };
    await run('after', { ...best, learning_rate: 0.5, resume_from_checkpoint: 'latest' }, { onEvent });
    expect(said).toEqual([]);
    const state = JSON.parse(readFileSync(at('after', 'trainer_state.json'), 'utf8')) as {
      best_model_checkpoint: string;
    };
    expect(dirname(state.best_model_checkpoint)).toBe(at('after'));
  });

  it('is resumed with its base in another place', async () => {
    for (const use_lora of [true, false]) {
      const name = `other base ${use_lora}`;
      const stop = ({ event }: RunEvent): void => {
        if (event === 'run_start') writeFileSync(at(name, 'STOP'), '');
      };
      await run(name, { ...flags, use_lora }, { onEvent: stop });
      const moved = at(`moved base ${use_lora}`);
      cpSync(place.model, moved, { recursive: true });
      const resumed = { ...flags, use_lora, model_name_or_path: moved, resume_from_checkpoint: 'latest' };
      expect(await run(name, resumed)).toMatchObject({ steps: 2 });
    }
  });

  it('that is removed during the run is made again, which is said, and the result is there', async () => {
    const said: string[] = [];
    const onEvent = (event: RunEvent): void => {
      if (event.event === 'step' && event.step === 1) rmSync(at('removed'), { recursive: true });
      if (event.event === 'warning') said.push(event.message);
    };
    await run('removed', { ...flags, max_steps: 3, save_steps: 2 }, { onEvent });
    expect(said).toEqual([expect.stringMatching(/^THE RUN FOLDER WAS REMOVED/)]);
    expect(readdirSync(at('removed'))).toEqual(
      expect.arrayContaining(['adapter_model.safetensors', 'checkpoint-2', 'events.jsonl', 'run_files.jsonl']),
    );
    expect(eventsOf(at('removed'), 'step').map(({ step }) => step)).toEqual([2, 3]);
    await run('removed', { ...flags, overwrite_output_dir: true });
  });

  it('that cannot be made is an error with the flag', async () => {
    write(at('file'), 'no folder');
    await expect(run('file/run')).rejects.toMatchObject({ name: 'UserError', flag: '--output_dir' });
    await expect(run('file')).rejects.toMatchObject({ name: 'UserError', flag: '--output_dir' });
    expect(readFileSync(at('file'), 'utf8')).toBe('no folder');
  });

  it('on a disk that is read only is refused before the first step', async () => {
    mkdirSync(at('mounted'));
    if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=8m,ro', 'tmpfs', at('mounted')]).status !== 0) return; // not permitted here
    try {
      await expect(run('mounted')).rejects.toThrow(
        /Expected a folder that can be written for --output_dir .*mounted": EROFS/,
      );
      await expect(run('mounted/new')).rejects.toMatchObject({ name: 'UserError', flag: '--output_dir' });
    } finally {
      execFileSync('umount', [at('mounted')]);
    }
  });

  it('what is said of a run that was stopped is what is on the disk', async () => {
    const ended = async (name: string, more: Flags, at_step: number): Promise<string> => {
      const said: string[] = [];
      const reporter = { ...SILENT, notice: (message: string) => said.push(message) };
      const onEvent = (event: RunEvent): void => {
        if (event.event === 'step' && event.step === at_step) writeFileSync(at(name, 'STOP'), '');
      };
      await run(name, { max_steps: 4, ...more }, { reporter, onEvent });
      return said.at(-1)!;
    };
    const how = 'Resume with the same command and --resume_from_checkpoint latest, or use';
    expect(await ended('stop saved', {}, 2)).toBe(
      `Stopped after step 2; checkpoint-2 has everything. ${how} ${at('stop saved', 'checkpoint-2')} as it is.`,
    );
    expect(await ended('stop older', { save_strategy: 'steps', save_steps: 2, save_on_stop: false }, 3)).toBe(
      `Stopped after step 3; the newest checkpoint is checkpoint-2, what came after it was not saved (--save_on_stop false). ${how} ${at('stop older', 'checkpoint-2')} as it is.`,
    );
    expect(await ended('stop nothing', { save_on_stop: false }, 2)).toBe(
      'Stopped after step 2; nothing was saved (--save_on_stop false). Start over with the same command and --overwrite_output_dir true.',
    );
    expect(await ended('stop model', { save_only_model: true }, 2)).toContain('it cannot be resumed');
  });

  it('a STOP file that holds something is obeyed and stays', async () => {
    const onEvent = (event: RunEvent): void => {
      if (event.event === 'run_start') writeFileSync(at('stop text', 'STOP'), 'my notes');
    };
    expect(await run('stop text', { max_steps: 2 }, { onEvent })).toMatchObject({ stopped: 'stop_file', steps: 1 });
    expect(readFileSync(at('stop text', 'STOP'), 'utf8')).toBe('my notes');
    await expect(run('stop text', { max_steps: 2, resume_from_checkpoint: 'latest' })).rejects.toThrow(/holds STOP/);
  });
});
