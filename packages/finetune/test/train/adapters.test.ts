/** Whole runs with adapters and slices: what the run says of them, what its result keeps, and what commands make of that. */
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadModel } from '@minicpm-finetune/minicpm-v';
import { readConfig } from '@minicpm-finetune/processor';
import { describeEvent } from '@minicpm-finetune/run';
import { noGrad, ops, SafetensorsFile, scope, setThreads, writeSafetensors } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Reporter } from '../../src/report/reporter.js';
import { train } from '../../src/train/train.js';
import { command } from '../support/command.js';
import { configOf, eventsOf, makePlace, type Place, readJson } from '../support/run-place.js';
import { tinyAdapter } from '../support/tiny-model.js';

setThreads(1);
let place: Place;
beforeAll(() => {
  place = makePlace(4);
  writeFileSync(join(place.folder, 'names.yaml'), 'lora_target_modules: [q_proj, v_proj]\n');
});
afterAll(() => rmSync(place.folder, { recursive: true }));

type Flags = Readonly<Record<string, unknown>>;
const LORA: Flags = { use_lora: true, lora_r: 4, lora_alpha: 8, tune_vision: false, max_steps: 1 };

/** Trains, and returns the run folder and the notices. */
async function run(name: string, flags: Flags): Promise<{ folder: string; notices: string }> {
  const notices: string[] = [];
  const reporter: Reporter = {
    notice: (message) => notices.push(message),
    task: () => ({ update: () => {}, finish: () => {} }) as never,
  };
  const recipe = flags.recipe === undefined ? {} : { recipe: join(place.folder, String(flags.recipe)) };
  const config = configOf(place, name, { max_steps: 1, ...flags, ...recipe });
  await train(config, { reporter });
  return { folder: config.output.output_dir, notices: notices.join('\n') };
}

/** Trains in words, without a training. */
const dryRun = (flags: Flags) => {
  const all: Flags = { model_name_or_path: place.model, data_path: place.data, output_dir: 'never', ...flags };
  return command(
    'train',
    '--dry_run',
    ...Object.entries(all).flatMap(([name, value]) => [`--${name}`, ...String(value).split(' ')]),
  );
};

describe('where adapters go', () => {
  it.each<[string, Flags, string]>([
    ['names', { recipe: 'names.yaml' }, 'llm 2 layers × 2'],
    ['all-linear', { lora_target_modules: 'all-linear' }, 'llm 2 layers × 7'],
    ['a pattern', { lora_target_modules: '(llm|vpm)\\..*q_proj' }, 'llm 2 layers × 1, vpm 2 layers × 1'],
    ['layers', { lora_layers_to_transform: 1 }, 'llm 1 of 2 layers × 4'],
    [
      'uneven',
      { lora_target_modules: 'llm.*(q_proj|layers\\.1\\..*v_proj)' },
      'llm q_proj in 2 layers and v_proj in 1 of 2 layers',
    ],
  ])('%s: in the log, and in events.jsonl', async (what, flags, line) => {
    const { folder } = await run(`places-${what}`, { ...LORA, ...flags });
    const [start] = eventsOf(folder, 'run_start');
    expect(start!.derived).toContain(`adapters: ${line}`);
    expect(describeEvent(start!)).toContain(`adapters: ${line}`);
    const layers = start!.adapters!.map(({ part, layers }) => `${part} ${layers}`);
    expect(layers[0]).toBe(`llm ${what === 'layers' ? 1 : 2}`);
    // PEFT, which reads names otherwise, finds the adapters where they are
    const written = new SafetensorsFile(join(folder, 'adapter_model.safetensors'));
    const { target_modules: targets } = readJson<{ target_modules: unknown }>(folder, 'adapter_config.json');
    if (what === 'names' || what === 'all-linear') {
      const adapted = [...written.infos.keys()].sort().filter((name) => name.endsWith('lora_A.weight'));
      expect([...(targets as string[])].sort()).toEqual(
        adapted.map((name) => name.slice('base_model.model.'.length, -'.lora_A.weight'.length)),
      );
    }
    using model = await loadModel({ model: place.model, adapter: folder });
    expect(model.notices).toEqual([]);
  });
});

describe('--dry_run', () => {
  it('says where adapters go, what trains, and the memory, without weights', async () => {
    const { code, stderr } = await dryRun({ ...LORA, lora_target_modules: 'q_proj v_proj', bf16: true });
    expect(code).toBe(0);
    expect(stderr).toContain('adapters: llm 2 layers × 2\n');
    const trains = /^(.*) of (.*) parameters train/m.exec(stderr)!;
    const { folder } = await run('same-count', { ...LORA, recipe: 'names.yaml', bf16: true });
    const [start] = eventsOf(folder, 'run_start');
    expect(trains[1]).toContain(String(Math.round(start!.trainable_parameters / 1000)));
    expect(stderr).toMatch(
      /memory: about .* at most = weights .* \+ gradients .* \+ optimizer .* \+ activations .*, in the .* of /,
    );
  });

  it.each<[Flags, string]>([
    [{ lora_target_modules: 'q_porj v_proj' }, 'Did you mean q_proj?'],
    [{ lora_target_modules: 'fc1' }, "give the pattern 'vpm\\..*\\.fc1'"],
    [{ lora_target_modules: 'llm.*attention.*' }, 'matches none'],
    [{ lora_layers_to_transform: 9 }, 'Layers are numbered 0 to 1'],
    [{ lora_modules_to_save: 'resamlper' }, 'Did you mean resampler?'],
  ])('refuses %j', async (flags, text) => {
    const { code, stderr } = await dryRun({ ...LORA, ...flags });
    expect(code).toBe(2);
    expect(stderr).toContain(text);
  });

  it('looks at the adapter that goes on', async () => {
    const adapter = tinyAdapter(place.model, join(place.folder, 'dry'));
    const on = { use_lora: true, lora_weight_path: adapter };
    expect((await dryRun(on)).stderr).toContain('keeps what it has: r 4');
    expect((await dryRun({ ...on, lora_r: 8 })).stderr).toContain('--lora_r is 4 there and 8 here');
    expect((await dryRun({ ...on, lora_target_modules: 'all-linear' })).stderr).toContain(
      '"all-linear", which selects 14',
    );
    writeFileSync(join(adapter, 'non_lora_trainables.bin'), 'x');
    expect((await dryRun(on)).stderr).toContain('received non_lora_trainables.bin beside it');
  });

  it('says so when the model is not here', async () => {
    const { code, stderr } = await dryRun({ model_name_or_path: 'openbmb/no-such-model' });
    expect(code).toBe(0);
    expect(stderr).toContain('not checked: openbmb/no-such-model is not on this machine');
  });
});

describe('an adapter that goes on', () => {
  it('has its values in run.json, in events and in its result', async () => {
    const first = await run('first', LORA);
    const second = await run('second', { use_lora: true, lora_weight_path: first.folder, lora_dropout: 0.3 });
    const config = readJson<{ lora: object; trainables: object }>(second.folder, 'run.json');
    expect(config.lora).toMatchObject({
      lora_r: 4,
      lora_alpha: 8,
      lora_dropout: 0.3,
      lora_modules_to_save: ['resampler'],
    });
    expect(config.trainables).toMatchObject({ tune_vision: false });
    expect(readJson(second.folder, 'adapter_config.json')).toMatchObject({ r: 4, lora_alpha: 8, lora_dropout: 0.3 });
    const again = configOf(place, 'third', { recipe: join(second.folder, 'run.json'), lora_weight_path: first.folder });
    expect(again.lora).toMatchObject({ lora_r: 4, lora_dropout: 0.3 });
  });

  it('is resumed with the same flags, also when the folder it came from is gone', async () => {
    const first = await run('gone', LORA);
    const flags = { use_lora: true, lora_weight_path: first.folder, save_strategy: 'steps', save_steps: 1 };
    const { folder } = await run('goes-on', flags);
    rmSync(first.folder, { recursive: true });
    rmSync(join(folder, 'adapter_model.safetensors'));
    await train(
      configOf(place, 'goes-on', { ...flags, max_steps: 2, resume_from_checkpoint: 'latest', resume_anyway: true }),
    );
    expect(eventsOf(folder, 'run_end').at(-1)).toMatchObject({ status: 'finished', step: 2 });
  });

  it('that changes nothing is said by train, generate, chat and merge; NaN is refused by the tensor’s name', async () => {
    const adapter = join(place.folder, 'idle');
    cpSync((await run('for-idle', { ...LORA, lora_modules_to_save: '' })).folder, adapter, { recursive: true });
    const file = join(adapter, 'adapter_model.safetensors');
    const rewrite = (value: number): void =>
      noGrad(() =>
        scope(() => {
          const source = new SafetensorsFile(file);
          const tensors = [...source.infos.keys()].map((name) => {
            const tensor = ops.clone(source.tensor(name));
            return [name, name.includes('lora_B') ? ops.full(tensor.shape, value) : tensor] as const;
          });
          writeSafetensors(file, new Map(tensors));
          rmSync(join(adapter, 'minicpm_manifest.json'), { force: true });
        }),
      );
    rewrite(0);
    const idle = 'THE ADAPTER CHANGES NOTHING: its lora_B are all zero';
    const trained = await run('from-idle', { use_lora: true, lora_weight_path: adapter });
    expect(trained.notices).toContain(idle);
    expect(eventsOf(trained.folder, 'run_start')[0]!.notices.join()).toContain(idle);
    const on = ['--model', place.model, '--adapter', adapter];
    const merged = await command('merge', ...on, '--output_dir', join(place.folder, 'merged-idle'));
    expect(merged.stderr).toContain(idle);
    expect(merged.stdout).toContain(', 0 of them changed.');
    const answers = ['--data_path', place.data, '--output', join(place.folder, 'idle.jsonl'), '--max_new_tokens', '2'];
    expect((await command('generate', ...on, ...answers)).stderr).toContain(idle);
    expect((await command('chat', ...on, '--prompt', 'Hi', '--max_new_tokens', '2')).stderr).toContain(idle);
    rewrite(Number.NaN);
    for (const words of [
      ['merge', ...on, '--output_dir', join(place.folder, 'never')],
      ['chat', ...on, '--prompt', 'Hi'],
    ]) {
      const { code, stderr } = await command(...words);
      expect(code).toBe(2);
      expect(stderr).toContain('q_proj.lora_B.weight has NaN');
    }
  });
});

describe('slices of a training', () => {
  const SLICES = { max_slice_nums: 2, scale_resolution: 70 };

  it('of all weights are in its config.json, and Python’s preprocessor_config.json', async () => {
    const base = join(place.folder, 'with-preprocessor');
    cpSync(place.model, base, { recursive: true });
    const preprocessor = { image_processor_type: 'MiniCPMVImageProcessor', max_slice_nums: 4, scale_resolution: 56 };
    writeFileSync(join(base, 'preprocessor_config.json'), JSON.stringify(preprocessor));
    const { folder, notices } = await run('sliced', { model_name_or_path: base, ...SLICES });
    expect(notices).toContain('pictures are cut into 2 slices at 70, the checkpoint says 4 slices at 56.');
    expect(readConfig(folder).slice).toMatchObject({ maxSliceNums: 2, scaleResolution: 70 });
    const before = readJson<{ slice_config: object }>(base, 'config.json');
    expect(readJson(folder, 'config.json')).toEqual({ ...before, slice_config: { ...before.slice_config, ...SLICES } });
    expect(readJson(folder, 'preprocessor_config.json')).toEqual({ ...preprocessor, ...SLICES });
    const checked = await command('check-data', '--model_name_or_path', folder, '--data_path', place.data, '--json');
    const asked = await command(
      'check-data',
      '--model_name_or_path',
      base,
      '--data_path',
      place.data,
      '--json',
      '--max_slice_nums',
      '2',
      '--scale_resolution',
      '70',
    );
    const numbers = ({ stdout }: { stdout: string }) => ({ ...(JSON.parse(stdout) as object), seconds: 0 });
    expect(numbers(checked)).toEqual(numbers(asked));
  });

  it('unchanged, leave config.json as it was, and no notice', async () => {
    const { folder, notices } = await run('as-it-was', {});
    expect(notices).not.toContain('pictures are cut');
    expect(readFileSync(join(folder, 'config.json'), 'utf8')).toBe(
      readFileSync(join(place.model, 'config.json'), 'utf8'),
    );
  });

  it('of an adapter are in its manifest, and used by every command unless a flag says otherwise', async () => {
    const { folder } = await run('sliced-adapter', { ...LORA, ...SLICES });
    expect(readJson(folder, 'minicpm_manifest.json')).toMatchObject({ slices: SLICES });
    const [model, adapter] = [
      ['--model', place.model],
      ['--adapter', folder],
    ];
    const said = 'was trained with 2 slices at 70, the base says 4 slices at 56';
    const merged = join(place.folder, 'merged-slices');
    expect((await command('merge', ...model, ...adapter, '--output_dir', merged)).stderr).toContain(said);
    expect(readConfig(merged).slice).toMatchObject({ maxSliceNums: 2, scaleResolution: 70 });
    const chat = ['chat', ...model, ...adapter, '--prompt', 'Hi', '--max_new_tokens', '2'];
    expect((await command(...chat)).stderr).toContain(said);
    expect((await command(...chat, '--max_slice_nums', '1', '--scale_resolution', '56')).stderr).toContain(
      'trained with 2 slices at 70, asked with 1 slice at 56.',
    );
    const answers = [
      '--data_path',
      place.data,
      '--output',
      join(place.folder, 'sliced.jsonl'),
      '--max_new_tokens',
      '2',
    ];
    expect((await command('generate', ...model, ...adapter, ...answers)).stderr).toContain(said);
    const data = ['--model_name_or_path', place.model, '--data_path', place.data];
    for (const name of ['check-data', 'render'])
      expect((await command(name, ...data, ...adapter)).stderr).toContain(said);
    const next = configOf(place, 'next', { use_lora: true, lora_weight_path: folder });
    expect(next.model).toMatchObject(SLICES);
  });
});
