/** What the routes of the tools build on: places of findings, errors from text, cards, folders, weights of runs. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ENGLISH } from '@minicpm-finetune/run';
import { afterAll, describe, expect, it } from 'vitest';
import { errorOfText, fieldError } from '../../src/server/say.js';
import { weightsOfModel, weightsOfRun } from '../../src/server/tools/chat-source.js';
import { CheckedRecords, type CheckJson } from '../../src/server/tools/checked-data.js';
import { gpusOf } from '../../src/server/tools/machine.js';
import { recipeText } from '../../src/server/tools/new-run.js';
import { makeFolder } from '../support/page-server.js';

describe('CheckedRecords', () => {
  const json: CheckJson = {
    files: [
      { path: 'a.json', records: 3, description: '' },
      { path: 'b.json', records: 2, description: '' },
    ],
    records: 5,
    errors: [{ message: 'E', file: 'b.json', record: 1, line: 9 }],
    warnings: [{ message: 'W', file: 'a.json', record: 0 }],
    tokens: null,
    supervised_share: null,
    text_only: 1,
    images: 3,
    videos: 0,
    frames: 0,
    slices_per_image: { 0: 2, 4: 1 },
    model_max_length: 10,
    suggested_model_max_length: null,
    per_record: { tokens: [5, 11, 10, 30, null], images: [1, 1, 0, 1, null] },
    seconds: 1,
  };
  const checked = new CheckedRecords(json);

  it('counts records through all files', () => {
    expect(checked.report(ENGLISH).findings.map(({ record, place }) => [record, place])).toEqual([
      [4, 'b.json:9, record 1'],
      [0, 'a.json, record 0'],
    ]);
    expect(checked.findingsOf(4, ENGLISH)).toHaveLength(1);
  });

  it('filters', () => {
    expect(checked.passing('all', undefined)).toEqual([0, 1, 2, 3, 4]);
    expect(checked.passing('error', undefined)).toEqual([4]);
    expect(checked.passing('warning', undefined)).toEqual([0]);
    expect(checked.passing('long', undefined)).toEqual([1, 3]);
    expect(checked.passing('long', 11)).toEqual([3]);
    expect(checked.passing('text_only', undefined)).toEqual([2]);
  });
});

describe('errors of the command line', () => {
  it('are taken apart again', () => {
    const text = 'notice: x\nerror: Expected a but received b.\n   at: --lora_r, f.yaml:2\n cure: Give c.\n';
    expect(errorOfText(text, ENGLISH)).toEqual({
      message: 'Expected a but received b.',
      field: 'lora_r',
      cure: 'Give c.',
    });
  });

  it('without the form are their last lines; silence has a sentence', () => {
    expect(errorOfText('a\nb\n', ENGLISH)).toEqual({ message: 'a\nb', field: null, cure: null });
    expect(errorOfText('', ENGLISH).message).not.toBe('');
  });

  it('name place and flag', () => {
    expect(fieldError({ message: 'M.', file: 'a.json', line: 3, record: 2, turn: 1, flag: '--seed' }, ENGLISH)).toEqual(
      {
        message: 'M. (a.json:3, record 2, turn 1)',
        field: 'seed',
        cure: null,
      },
    );
  });
});

describe('recipeText', () => {
  it('quotes what YAML would read as something else', () => {
    expect(recipeText({ run_name: 'no', output_dir: 'runs/a b', seed: 7, data_path: ['x'], use_lora: true })).toBe(
      'data_path: ["x"]\noutput_dir: "runs/a b"\nrun_name: "no"\nuse_lora: true\nseed: 7\n',
    );
    expect(recipeText({ run_name: 'plain' })).toBe('run_name: plain\n');
  });
});

describe('gpusOf', () => {
  it('reads the lines of nvidia-smi, with null for what a card does not tell', () => {
    expect(gpusOf('NVIDIA H100 80GB HBM3, 37, 1024, 81559, 312.50, [N/A]\n')).toEqual([
      {
        name: 'NVIDIA H100 80GB HBM3',
        util: 37,
        memUsed: 2 ** 30,
        memTotal: 81559 * 2 ** 20,
        power: 312.5,
        temp: null,
      },
    ]);
    expect(gpusOf('')).toEqual([]);
  });
});

describe('the weights of a run', () => {
  const { path, remove } = makeFolder('weights');
  afterAll(remove);
  const run = { name: 'digits', folder: join(path, 'run'), cwd: path };
  const write = (name: string, value: object): void => {
    mkdirSync(join(path, name, '..'), { recursive: true });
    writeFileSync(join(path, name), JSON.stringify(value));
  };
  mkdirSync(join(path, 'base'));
  write('run/run.json', { model: { model_name_or_path: 'base' } });

  it('are none before the first checkpoint', () => {
    expect(() => weightsOfRun(run, null)).toThrow(/there are none yet/);
    expect(() => weightsOfRun(run, 2)).toThrow(/complete checkpoint of step 2/);
  });

  it('of an adapter are its folder, and its base where the run was started', () => {
    write('run/adapter_config.json', { base_model_name_or_path: 'other' });
    const base = join(path, 'base');
    expect(weightsOfRun(run, null)).toEqual({ base, adapter: run.folder, label: 'digits', mayFetch: false });
    expect(weightsOfRun(run, 'base')).toEqual({ base, adapter: null, label: 'base', mayFetch: false });
    write('run/run.json', { model: { model_name_or_path: 'openbmb/MiniCPM-V-2_6' } });
    expect(weightsOfRun(run, null).base).toBe('openbmb/MiniCPM-V-2_6');
  });

  it('of a model that is named are there, or a name of the hub', () => {
    expect(weightsOfModel('base', path)).toEqual({
      base: join(path, 'base'),
      adapter: null,
      label: 'base',
      mayFetch: true,
    });
    expect(weightsOfModel('openbmb/x', path)).toEqual({ base: 'openbmb/x', adapter: null, label: 'x', mayFetch: true });
  });
});
