/** Parity of decoding, slicing, resizing and pixel layout. No tokenizer is involved. */
import {
  cutPicture,
  decodeImage,
  ensureDivide,
  imagePlaceholder,
  normalize,
  PILLOW_MAX_PIXELS,
  planSlices,
  type RgbImage,
  resizeBicubic,
} from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import { type DataReference, type Profile, type Sample, type StoredArray, sha256 } from './data-folder.js';
import { Check, type CheckLine } from './data-report.js';

type Lines = (CheckLine | undefined)[];

/** Decoders of these formats may differ from the reference's by one level. */
const LOSSY = /\.(jpe?g|webp|avif|tiff?)$/i;
const ONE_LEVEL = 1 / 255;

async function decode(folder: DataReference, path: string): Promise<RgbImage> {
  return await decodeImage(folder.path(path), { maxImagePixels: PILLOW_MAX_PIXELS });
}

/** Slicing geometry and the placeholders that go with it. */
export function checkSlices(folder: DataReference): Lines {
  interface Case {
    size: [number, number];
    max_slice_nums: number;
    scale_resolution: number;
    patch_size: number;
    best_grid: [number, number] | null;
    source_size: number[];
    refine_size: number[] | null;
    patch_boxes: number[][][];
    tgt_sizes: number[][];
    placeholder_q1?: { old_schema: string; new_schema: string };
  }
  const file = folder.json<{ cases: Case[]; ensure_divide?: [number, number, number][] }>('slices.json');
  const [divide, geometry, text] = ['slices.ensure_divide', 'slices.geometry', 'slices.placeholder'].map(
    (name) => new Check('common', name),
  ) as [Check, Check, Check];
  for (const [length, divisor, result] of file?.ensure_divide ?? []) {
    divide.equal(`${length} / ${divisor}`, ensureDivide(length, divisor), result);
  }
  for (const c of file?.cases ?? []) {
    const label = `${c.size.join('x')} in ${c.max_slice_nums} of ${c.scale_resolution}/${c.patch_size}`;
    const plan = planSlices(c.size, {
      maxSliceNums: c.max_slice_nums,
      scaleResolution: c.scale_resolution,
      patchSize: c.patch_size,
    });
    const boxes = plan.boxes.flat();
    const sizes = [plan.source, ...boxes.map(([l, t, r, b]) => [r - l, b - t])];
    const patches = sizes.map(([w, h]) => [Math.floor(h! / c.patch_size), Math.floor(w! / c.patch_size)]);
    geometry.equal(
      label,
      [plan.grid, plan.source, plan.refine, plan.boxes, patches],
      [c.best_grid, c.source_size, c.refine_size, c.patch_boxes, c.tgt_sizes],
    );
    if (!c.placeholder_q1) continue;
    const placeholder = (schema: 'old' | 'new', imageId?: number): string =>
      imagePlaceholder({ schema, grid: plan.grid, features: '<unk>', imageId });
    const { old_schema, new_schema } = c.placeholder_q1;
    text.equal(label, [placeholder('old'), placeholder('new', plan.grid ? 0 : undefined)], [old_schema, new_schema]);
  }
  return [divide.line(), geometry.line(), text.line()];
}

/** Decoded images, and files that cannot be decoded. */
export async function checkImages(folder: DataReference): Promise<Lines> {
  interface Stored {
    file: string;
    rgb_size?: number[];
    rgb_sha256?: string;
    probes?: number[][];
    error?: string;
  }
  const file = folder.json<{ images: Stored[] }>('images.json');
  const [exact, lossy, errors] = ['images.rgb', 'images.rgb_lossy', 'images.errors'].map(
    (name) => new Check('common', name),
  ) as [Check, Check, Check];
  for (const stored of file?.images ?? []) {
    const image = await decode(folder, stored.file).catch((error: unknown) => {
      if (error instanceof UserError) return undefined;
      throw error;
    });
    const broken = stored.rgb_sha256 === undefined;
    errors.equal(stored.file, image === undefined, broken);
    if (!image || broken) continue;
    const [pixels, tolerance] = LOSSY.test(stored.file) ? [lossy, ONE_LEVEL] : [exact, 0];
    if (sha256(image.data) === stored.rgb_sha256) {
      pixels.measure(stored.file, 0, tolerance);
      continue;
    }
    const probed = (stored.probes ?? []).map(([x, y, ...rgb]) => {
      const at = (y! * image.width + x!) * 3;
      return Math.max(...rgb.map((value, c) => Math.abs(value - image.data[at + c]!)));
    });
    pixels.equal(`${stored.file} size`, [image.width, image.height], stored.rgb_size);
    pixels.measure(stored.file, Math.max(ONE_LEVEL, ...probed.map((d) => d / 255)), tolerance);
  }
  return [exact.line(), lossy.line(), errors.line()];
}

/** The resize by itself. */
export function checkResize(folder: DataReference): Lines {
  const file = folder.json<{ cases: { name: string; file: string }[] }>('pil_resize/index.json');
  const check = new Check('common', 'resize');
  for (const { name, file: path } of file?.cases ?? []) {
    const arrays = folder.arrays(path);
    const [input, output] = [arrays.get('input')!, arrays.get('output')!];
    const image = { data: input.data as Uint8Array, width: input.shape[1]!, height: input.shape[0]! };
    const resized = resizeBicubic(image, output.shape[1]!, output.shape[0]!);
    check.measure(name, largestDifference(resized.data, output) / 255, 0);
  }
  return [check.line()];
}

function largestDifference(received: ArrayLike<number>, expected: StoredArray): number {
  if (received.length !== expected.data.length) return Number.POSITIVE_INFINITY;
  let largest = 0;
  for (let i = 0; i < received.length; i++) largest = Math.max(largest, Math.abs(received[i]! - expected.data[i]!));
  return largest;
}

interface StoredPicture {
  best_grid: number[] | null;
  chw_shape: number[];
  patches_shape: number[];
  tgt_size: number[];
  rgb_u8_sha256: string;
  chw_f32_sha256: string;
  patches_f32_sha256: string;
  chw_probe_index: number[];
  chw_probe: number[];
  patches_probe_index: number[];
  patches_probe: number[];
}

/** The overview and slices of an image, before they are laid out, and its grid. */
function cut(image: RgbImage, profile: Profile): { pictures: RgbImage[]; grid: number[] | null } {
  if (!profile.sliceConfig) return { pictures: [image], grid: null };
  const plan = planSlices([image.width, image.height], profile.sliceConfig);
  const pictures = [resizeBicubic(image, ...plan.source)];
  if (plan.refine) {
    const refined = resizeBicubic(image, ...plan.refine);
    for (const [left, top, right, bottom] of plan.boxes.flat()) {
      const data = new Uint8Array((right - left) * (bottom - top) * 3);
      for (let y = top; y < bottom; y++) {
        const from = (y * refined.width + left) * 3;
        data.set(refined.data.subarray(from, from + (right - left) * 3), (y - top) * (right - left) * 3);
      }
      pictures.push({ data, width: right - left, height: bottom - top });
    }
  }
  return { pictures, grid: plan.grid };
}

function imagePaths({ record }: Sample): string[] {
  return typeof record.image === 'string' ? [record.image] : Object.values(record.image as Record<string, string>);
}

/** The checks that a picture goes through. */
interface PixelChecks {
  layout: Check;
  /** By hash, and where a decoder differs, by probes. */
  pixels: Check;
  /** Every pixel, where the folder has them. */
  full: Check;
  tolerance: number;
}

function pixelChecks(suffix: string, tolerance: number): PixelChecks {
  const check = (name: string): Check => new Check('common', name + suffix);
  return { layout: check('pixels.layout'), pixels: check('pixels'), full: check('pixels.full'), tolerance };
}

/** Pixels of every picture of every sample. */
export async function checkPixels(folder: DataReference): Promise<Lines> {
  const expected = folder.json<{ samples: Record<string, StoredPicture[]> }>('expected/pixels.json')?.samples ?? {};
  const { samples, profiles } = folder.samples() ?? { samples: [], profiles: new Map<string, Profile>() };
  const full = folder.arrays('expected/pixels_full.safetensors');
  const [exact, lossy] = [pixelChecks('', 0), pixelChecks('_lossy', ONE_LEVEL)];
  const count = new Check('common', 'pixels.count');
  for (const sample of samples) {
    const stored = expected[sample.id];
    if (!stored) continue;
    const profile = profiles.get(sample.options.profile)!;
    let index = 0;
    for (const path of imagePaths(sample)) {
      const { pictures, grid } = cut(await decode(folder, path), profile);
      for (const picture of pictures) {
        const name = `${sample.id}/${index}`;
        const want = stored[index++];
        if (want)
          comparePicture(
            LOSSY.test(path) ? lossy : exact,
            { name, picture, grid, patchSize: profile.patchSize },
            want,
            full,
          );
      }
    }
    count.equal(sample.id, index, stored.length);
  }
  return [count, ...[exact, lossy].flatMap(({ layout, pixels, full }) => [layout, pixels, full])].map((check) =>
    check.line(),
  );
}

interface CutPicture {
  readonly name: string;
  readonly picture: RgbImage;
  readonly grid: number[] | null;
  readonly patchSize: number;
}

function comparePicture(
  checks: PixelChecks,
  { name, picture, grid, patchSize }: CutPicture,
  want: StoredPicture,
  full: Map<string, StoredArray>,
): void {
  const box = [0, 0, picture.width, picture.height] as [number, number, number, number];
  const [planes, patches] = [cutPicture(picture, box, patchSize, false), cutPicture(picture, box, patchSize, true)];
  checks.layout.equal(
    name,
    [grid, planes.shape, patches.shape, [patches.rows, patches.cols]],
    [want.best_grid, want.chw_shape, want.patches_shape, want.tgt_size],
  );
  const [chw, patched] = [normalize(planes.pixels), normalize(patches.pixels)];
  const same =
    sha256(picture.data) === want.rgb_u8_sha256 &&
    sha256(chw) === want.chw_f32_sha256 &&
    sha256(patched) === want.patches_f32_sha256;
  // Normalised values are twice as far apart as fractions of 255.
  const probes = [
    ...want.chw_probe_index.map((at, i) => Math.abs(chw[at]! - want.chw_probe[i]!) / 2),
    ...want.patches_probe_index.map((at, i) => Math.abs(patched[at]! - want.patches_probe[i]!) / 2),
  ];
  checks.pixels.measure(name, same ? 0 : Math.max(ONE_LEVEL, ...probes), checks.tolerance);
  for (const [kind, received, scale] of [
    ['rgb', picture.data, 255],
    ['chw', chw, 2],
    ['patches', patched, 2],
  ] as const) {
    const stored = full.get(`${name}/${kind}`);
    if (stored) checks.full.measure(`${name}/${kind}`, largestDifference(received, stored) / scale, checks.tolerance);
  }
}
