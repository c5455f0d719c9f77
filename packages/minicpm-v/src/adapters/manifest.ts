/**
 * `minicpm_manifest.json` beside an adapter. Lists what was trained (names, shapes, checksums), on which base, and how
 * records were encoded, pictures and videos read. No import of torch; the checksums are made in checksums.ts.
 *
 * PEFT ignores the file; an adapter without one loads just as well, only unchecked. Format 1 knew the base by samples of its weights,
 * format 2 by all of them.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { z } from 'zod';

export const MANIFEST_FILE = 'minicpm_manifest.json';

const SLICES = z.object({ max_slice_nums: z.int().min(1), scale_resolution: z.int().min(1) });

const VIDEOS = z.object({
  fps: z.number().positive(),
  max_frames: z.int().min(1),
  max_packing: z.int().min(1).exactOptional(),
  max_slice_nums: z.int().min(1),
});

const ENCODING = z.object({
  compat: z.enum(['inference', 'official']),
  thinking: z.enum(['inference', 'every_turn', 'as_written']),
});

const FORM = z.object({
  format: z.union([z.literal(1), z.literal(2)]),
  base_model: z.object({
    path: z.string(),
    fingerprint: z.string(),
    /** The published name of the model, and its sizes. Not in the manifests of earlier versions. */
    model: z.string().optional(),
    sizes: z.record(z.string(), z.number()).optional(),
  }),
  /** How the pictures of the training were cut. */
  slices: SLICES.optional(),
  /** How the videos of the training were read; absent: the model reads none, or an earlier version wrote the manifest. */
  videos: VIDEOS.optional(),
  /** How the records of the training were encoded; absent: an earlier version wrote the manifest. */
  encoding: ENCODING.optional(),
  parameter_count: z.int(),
  parameters: z.record(
    z.string(),
    z.object({ shape: z.array(z.int()), dtype: z.string(), sha256: z.string().length(64) }),
  ),
});

export type AdapterManifest = z.infer<typeof FORM>;

/** Gives the fingerprint of a base as the manifests of a format have it. */
export type BaseFingerprint = (format: AdapterManifest['format']) => string;

/** The manifest in a folder, or undefined when there is none. */
export function readManifest(folder: string): AdapterManifest | undefined {
  const file = join(folder, MANIFEST_FILE);
  if (!existsSync(file)) return undefined;
  try {
    return FORM.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (cause) {
    throw new UserError(`Expected a manifest of format 1 or 2 for ${MANIFEST_FILE} but it cannot be read.`, {
      file,
      cure: 'Remove the file to load the adapter unchecked, or copy the adapter again.',
      cause,
    });
  }
}
