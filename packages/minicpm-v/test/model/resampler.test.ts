import { parseConfig } from '@minicpm-finetune/processor';
import { noGrad, ops, scope } from '@minicpm-finetune/torch';
import { describe, expect, it } from 'vitest';
import { expectNear, roundings } from '../../../torch/test/precision.js';
import { createModel } from '../../src/checkpoint/create.js';
import { Resampler, sinCosTable } from '../../src/model/resampler.js';
import { TimmVisionTower } from '../../src/model/timm-vit.js';
import { readReference } from '../support/reference.js';

describe('sinCosTable', () => {
  it('encodes the column in the first half and the row in the second, sines before cosines', () => {
    scope(() => {
      const table = sinCosTable(2, 3, 8);
      expect(table.shape).toEqual([6, 8]);
      const [row, col] = [1, 2];
      const values = ops.select(table, 0, row * 3 + col).toNumbers();
      const expected = [col, row].flatMap((at) => [Math.sin(at), Math.sin(at / 100), Math.cos(at), Math.cos(at / 100)]);
      expectNear(values, expected, roundings(4)); // of the frequency, the angle and its sine
    });
  });
});

describe('Resampler', () => {
  it('has a head for every 128 dimensions and no kv_proj where the widths agree', () => {
    const names = (visionDim: number): string[] =>
      [...new Resampler({ queryNum: 4, dim: 256, visionDim, storedPosEmbed: false }).namedParameters()].map(([n]) => n);
    expect(new Resampler({ queryNum: 4, dim: 256, visionDim: 8, storedPosEmbed: false }).attn.heads).toBe(2);
    expect(names(8)).toContain('kv_proj.weight');
    expect(names(256)).not.toContain('kv_proj.weight');
    expect(names(8)).not.toContain('pos_embed');
  });
});

describe('the position table of MiniCPM-V-2', () => {
  it('is itself on its own grid and keeps its mean on others', () => {
    const config = parseConfig(JSON.stringify(readReference('minicpm-v-2').config), 'config.json');
    const model = createModel(config, { seed: 1 });
    const tower = model.vpm as TimmVisionTower;
    expect(tower).toBeInstanceOf(TimmVisionTower);
    noGrad(() =>
      scope(() => {
        tower.posEmbed.data = ops.addScalar(ops.mulScalar(tower.posEmbed.data, 0), 0.5);
        expect(tower.positions(8, 8)).toBe(tower.posEmbed.data);
        const resampled = tower.positions(3, 11);
        expect(resampled.shape).toEqual([1, 33, 16]);
        const numbers = resampled.toNumbers();
        expectNear(
          numbers,
          numbers.map(() => 0.5),
          roundings(16),
        ); // sums of 16 neighbours
      }),
    );
  });
});
