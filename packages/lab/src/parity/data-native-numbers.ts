/** Parity of what is numbers alone in `v46/`. Slicing, frames of videos, canvas positions. */
import { type CanvasMarks, canvasPositions, countTokens, planSlices, sampleFrames } from '@minicpm-finetune/processor';
import type { DataReference } from './data-folder.js';
import { Check, type CheckLine } from './data-report.js';

/** Sides of patches, and what the sides of pictures are multiples of, in pixels. */
export const PATCH = 14;
export const MULTIPLE = 56;
export const PATCHES_PER_TOKEN = { '4x': 4, '16x': 16 } as const;

/** Slices, sampling and canvas of a folder that has them. */
export const checkNumbers = (folder: DataReference): (CheckLine | undefined)[] => [
  checkSlices(folder),
  checkSampling(folder),
  checkCanvas(folder),
];

function checkSlices(folder: DataReference): CheckLine | undefined {
  interface Case {
    size: [number, number];
    max_slice_nums: number;
    scale_resolution: number;
    grid: [rows: number, columns: number] | null;
    source_size: number[];
    refine_size: number[] | null;
    tgt_sizes: [number, number][];
    tokens_16x: number[];
    tokens_4x: number[];
  }
  const check = new Check('common', 'v46.slices');
  for (const c of folder.json<{ cases: Case[] }>('v46/slices.json')?.cases ?? []) {
    const { max_slice_nums: maxSliceNums, scale_resolution: scaleResolution } = c;
    const plan = planSlices(c.size, { maxSliceNums, scaleResolution, patchSize: PATCH, multiple: MULTIPLE });
    const sizes = [plan.source, ...plan.boxes.flat().map(([l, t, r, b]): [number, number] => [r - l, b - t])];
    const grids = sizes.map(([w, h]) => ({ rows: h / PATCH, cols: w / PATCH }));
    const tokens = (patchesPerToken: number): number[] => grids.map((grid) => countTokens({ patchesPerToken }, grid));
    check.equal(
      `${c.size.join('x')} in ${maxSliceNums} of ${scaleResolution}`,
      [
        plan.grid?.toReversed() ?? null,
        plan.source,
        plan.refine,
        grids.map(({ rows, cols }) => [rows, cols]),
        tokens(16),
        tokens(4),
      ],
      [c.grid, c.source_size, c.refine_size, c.tgt_sizes, c.tokens_16x, c.tokens_4x],
    );
  }
  return check.line();
}

function checkSampling(folder: DataReference): CheckLine | undefined {
  interface Case {
    total_num_frames: number;
    fps: number;
    max_num_frames: number;
    stack_frames: number;
    indices: number[];
  }
  const check = new Check('common', 'v46.video_sampling');
  for (const c of folder.json<{ cases: Case[] }>('v46/video_sampling.json')?.cases ?? []) {
    if (c.stack_frames > 1) continue; // composites, which the published processor cannot use
    const clip = { frames: c.total_num_frames, fps: c.fps };
    const { indices } = sampleFrames(clip, { sampling: 'seconds', fps: 1, maxFrames: c.max_num_frames, packing: 1 });
    check.equal(`${c.total_num_frames} frames at ${c.fps}, at most ${c.max_num_frames}`, indices, c.indices);
  }
  return check.line();
}

/** The ids of marks as the folder names them. */
export function marksOf(ids: Record<string, number>): CanvasMarks {
  return {
    imageStart: ids.image_start_id!,
    imageEnd: ids.image_end_id!,
    sliceStart: ids.slice_start_id!,
    sliceEnd: ids.slice_end_id!,
    newline: ids.newline_id!,
  };
}

function checkCanvas(folder: DataReference): CheckLine | undefined {
  interface Case {
    downsample_mode: '4x' | '16x';
    input_ids: number[];
    mm_token_type_ids: number[];
    tgt_sizes: [number, number][];
    tgt_sizes_videos: [number, number][];
    position_ids: number[][];
    rope_delta: number;
  }
  const check = new Check('common', 'v46.canvas');
  const file = folder.json<{ special_ids: Record<string, number>; cases: Case[] }>('v46/canvas.json');
  for (const [i, c] of (file?.cases ?? []).entries()) {
    const side = Math.sqrt(PATCHES_PER_TOKEN[c.downsample_mode]);
    const kinds = c.mm_token_type_ids;
    const starts = kinds.flatMap((kind, at) => (kind > 0 && kind !== kinds[at - 1] ? [at] : []));
    const bounds = starts.map((start): [number, number] => {
      const end = kinds.findIndex((kind, at) => at > start && kind !== kinds[start]);
      return [start, end === -1 ? kinds.length : end];
    });
    const sizes = { 1: [...c.tgt_sizes], 2: [...c.tgt_sizes_videos] };
    const grids = starts.map((start): [number, number] => {
      const [rows, columns] = sizes[kinds[start] as 1 | 2].shift()!;
      return [rows / side, columns / side];
    });
    const { positionIds, delta } = canvasPositions({
      inputIds: c.input_ids,
      bounds,
      grids,
      marks: marksOf(file!.special_ids),
    });
    check.equal(`layout ${i}`, [...positionIds, delta], [...c.position_ids.flat(), c.rope_delta]);
  }
  return check.line();
}
