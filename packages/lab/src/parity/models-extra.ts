/** Parity of tables: positions, sines, rotary frequencies. */
import { dirname, join } from 'node:path';
import type { MiniCPMV } from '@minicpm-finetune/minicpm-v';
import {
  inverseFrequencies,
  positionBuckets,
  sinCosTable,
  TimmVisionTower,
} from '@minicpm-finetune/minicpm-v/internal';
import { parseConfig } from '@minicpm-finetune/processor';
import { noGrad, ops, scope, tensor } from '@minicpm-finetune/torch';
import { ReferenceFolder } from './models-folder.js';
import { FEATURES } from './models-forward.js';
import { largest, maxDifference, type Report, scaledDifference } from './models-report.js';

const TABLE = 1e-5;

/** `{"<max positions>": {…}}` */
type Rope = Readonly<
  Record<
    string,
    { readonly inv_freq_short: number[]; readonly inv_freq_long: number[]; readonly attention_factor: number }
  >
>;

export function checkExtra(report: Report, folder: ReferenceFolder, model: MiniCPMV): void {
  if (folder.has('extra', 'pos_embed_resampled.safetensors') && model.vpm instanceof TimmVisionTower) {
    const tower = model.vpm;
    const file = folder.file('extra', 'pos_embed_resampled.safetensors');
    for (const grid of file.infos.keys())
      report.check(`extra/pos_embed/${grid}`, FEATURES, () =>
        noGrad(() => scaledDifference(ops.squeeze(tower.positions(...sides(grid)), 0), file.tensor(grid))),
      );
  }
  if (folder.has('extra', 'rope.json')) checkRope(report, folder.json<Rope>('extra', 'rope.json'), model);
}

const sides = (grid: string): [rows: number, cols: number] => {
  const [rows, cols] = grid.split('x').map(Number);
  return [rows!, cols!];
};

function checkRope(report: Report, expected: Rope, model: MiniCPMV): void {
  for (const [maxPositions, { inv_freq_short, inv_freq_long, attention_factor }] of Object.entries(expected)) {
    if (!/^\d+$/.test(maxPositions)) continue;
    const text = model.config.text.replace(/("max_position_embeddings"\s*:\s*)\d+/, `$1${maxPositions}`);
    const { llm } = parseConfig(text, model.config.file);
    const limit = llm.longRope?.originalMaxPositions ?? 0;
    const frequencies = (length: number, wanted: number[]) => (): number =>
      maxDifference(inverseFrequencies(llm, length), tensor(wanted));
    report.check(`extra/rope/${maxPositions}/short`, TABLE, frequencies(limit, inv_freq_short));
    report.check(`extra/rope/${maxPositions}/long`, TABLE, frequencies(limit + 1, inv_freq_long));
    report.check(`extra/rope/${maxPositions}/attention_factor`, TABLE, () =>
      Math.abs((llm.longRope?.attentionFactor ?? 1) - attention_factor),
    );
  }
}

/** Checks common to all models, if `common` is beside the folder. */
export function checkCommon(report: Report, folder: ReferenceFolder): void {
  const common = new ReferenceFolder(join(dirname(folder.path), 'common'));
  if (common.has('navit_buckets.safetensors'))
    report.check('common/navit_buckets', 0, () => {
      const file = common.file('navit_buckets.safetensors');
      const buckets = file.tensor('buckets').toNumbers();
      const offsets = file.tensor('offsets').toNumbers();
      const side = file.infos.get('boundaries')!.shape[0]! + 1;
      return largest(
        offsets.slice(1).map((end, i) => {
          const expected = buckets.slice(offsets[i]!, end);
          return positionBuckets(i + 1, side).filter((bucket, k) => bucket !== expected[k]).length;
        }),
      );
    });
  if (common.has('resampler_pos_embed.safetensors'))
    report.check('common/resampler_pos_embed', FEATURES, () => {
      const file = common.file('resampler_pos_embed.safetensors');
      return largest(
        [...file.infos.keys()].map((name) =>
          scope(() => {
            const [, dim, grid] = /\.e(\d+)\.(\d+x\d+)$/.exec(name)!;
            return maxDifference(sinCosTable(...sides(grid!), Number(dim)), file.tensor(name));
          }),
        ),
      );
    });
}
