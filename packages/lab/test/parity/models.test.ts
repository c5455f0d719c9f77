import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createModel, runPlan, saveCheckpoint } from '@minicpm-finetune/minicpm-v';
import { parseConfig } from '@minicpm-finetune/processor';
import { noGrad, ops, scope, type Tensor, tensor, writeSafetensors } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const PROGRAM = join(import.meta.dirname, '..', '..', 'dist', 'parity', 'models.js');
const CONFIG = {
  architectures: ['MiniCPMV'],
  version: 2.6,
  hidden_size: 128,
  intermediate_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  vocab_size: 40,
  max_position_embeddings: 64,
  query_num: 2,
  drop_vision_last_layer: false,
  vision_config: {
    hidden_size: 8,
    intermediate_size: 16,
    num_hidden_layers: 1,
    num_attention_heads: 1,
    patch_size: 14,
    image_size: 140,
  },
};
const IDS = [[5, 0, 0, 7, 9, 11]];
const LABELS = [[-100, -100, -100, 9, 11, 2]];

let folder: string;

/** A folder with one case whose expected values are the model's own. */
function write(change: (expected: Map<string, Tensor>) => void): void {
  const path = join(folder, 'cases', 'one');
  mkdirSync(path, { recursive: true });
  const model = createModel(parseConfig(JSON.stringify(CONFIG), 'config.json'), { seed: 1 });
  rmSync(join(folder, 'model.safetensors'), { force: true });
  saveCheckpoint(model, folder);
  noGrad(() =>
    scope(() => {
      const inputIds = tensor(IDS, 'int64');
      const positionIds = tensor([[0, 1, 2, 3, 4, 5]], 'int64');
      const pixels = ops.randn([3, 14, 14 * 6]);
      const picture = { pixels, rows: 2, cols: 3 };
      const inputs = { inputIds, positionIds, pictures: [[picture]], imageBounds: [[[1, 3] as const]] };
      const logits = model.logits(runPlan(model.plan(inputs, { train: false })));
      const loss = ops.crossEntropyLoss(ops.squeeze(logits, 0), tensor(LABELS[0]!, 'int64'));
      const expected = new Map([
        ['vision.0.0', model.visionFeatures([picture])[0]!],
        ['resampler.0.0', model.pictureTokens([picture])[0]!],
        ['inputs_embeds', model.inputsEmbeds(inputs)],
        ['logits', logits],
        ['loss', ops.reshape(loss, [1])],
      ]);
      change(expected);
      writeSafetensors(join(path, 'expected.safetensors'), expected);
      writeSafetensors(
        join(path, 'inputs.safetensors'),
        new Map([
          ['input_ids', ops.to(inputIds, 'int32')],
          ['position_ids', positionIds],
          ['labels', tensor(LABELS, 'int32')],
          ['attention_mask', ops.to(ops.ones([1, 6]), 'bool')],
          ['pixel_values.0.0', pixels],
          ['tgt_sizes.0', tensor([[2, 3]], 'int32')],
          ['image_bound.0', tensor([[1, 3]], 'int64')],
        ]),
      );
    }),
  );
  model.dispose();
}

function parity(...args: string[]): { status: number | null; failed: string[]; checks: number; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, ...args], { encoding: 'utf8' });
  const lines = stdout.split('\n').filter((line) => line !== '');
  const results = lines.map((line) => JSON.parse(line) as { check: string; ok: boolean });
  return { status, stderr, checks: results.length, failed: results.filter(({ ok }) => !ok).map(({ check }) => check) };
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'parity-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('parity', () => {
  it('passes when the numbers agree', () => {
    write(() => {});
    expect(parity(folder)).toMatchObject({ status: 0, failed: [], checks: 5 });
  });

  it('fails the checks whose numbers do not, or that cannot be made', () => {
    write((expected) => {
      expected.set('logits', ops.addScalar(expected.get('logits')!, 1e-3));
      expected.set('vision.0.0', ops.narrow(expected.get('vision.0.0')!, 0, 0, 5));
    });
    expect(parity(folder)).toMatchObject({ status: 1, failed: ['one/vision', 'one/logits'] });
  });

  it('fails when the checkpoint does not load', () => {
    write(() => {});
    writeFileSync(join(folder, 'model.safetensors'), 'nothing of the kind');
    expect(parity(folder)).toMatchObject({ status: 1, failed: ['weights'] });
  });

  it('refuses a wrong command line', () => {
    expect(parity()).toMatchObject({ status: 2, checks: 0 });
    expect(parity(join(folder, 'nowhere'))).toMatchObject({ status: 2, stderr: expect.stringContaining('nowhere') });
    expect(parity('--help').stderr).toContain('npm run parity -- DIR');
  });
});
