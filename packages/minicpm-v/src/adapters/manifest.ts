/**
 * `minicpm_manifest.json`: checksums of an adapter, its base. Lists what was trained (names, shapes, checksums) and on
 * which base.
 *
 * PEFT ignores the file; an adapter without one loads just as well, only unchecked. A base is known by the content of its weights alone:
 * the same weights in other shards, or beside an edited config.json, are the same base. Format 1 knew it by samples of the content.
 */
import { createHash, type Hash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { openSafetensors, scope, type Tensor, type TensorSource } from '@minicpm-finetune/torch';
import { z } from 'zod';
import { type HashProgress, tensorChecksum, weightsFingerprint } from '../checkpoint/content.js';

export const MANIFEST_FILE = 'minicpm_manifest.json';

const FORM = z.object({
  format: z.union([z.literal(1), z.literal(2)]),
  base_model: z.object({ path: z.string(), fingerprint: z.string() }),
  parameter_count: z.int(),
  parameters: z.record(
    z.string(),
    z.object({ shape: z.array(z.int()), dtype: z.string(), sha256: z.string().length(64) }),
  ),
});

export type AdapterManifest = z.infer<typeof FORM>;

/** The manifest of tensors by their names in the file. `base.path` is absolute or a hub id. */
export function makeManifest(
  base: { path: string; fingerprint: string },
  tensors: ReadonlyMap<string, Tensor>,
): AdapterManifest {
  const parameters: AdapterManifest['parameters'] = {};
  for (const [name, tensor] of tensors) {
    parameters[name] = { shape: [...tensor.shape], dtype: tensor.dtype, sha256: tensorChecksum(tensor) };
  }
  return {
    format: 2,
    base_model: { path: base.path, fingerprint: base.fingerprint },
    parameter_count: [...tensors.values()].reduce((sum, tensor) => sum + tensor.numel, 0),
    parameters,
  };
}

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

/** Gives the fingerprint of a base as the manifests of a format have it. */
export type BaseFingerprint = (format: AdapterManifest['format']) => string;

/** Refuses another base than the adapter's own. */
export function checkBase(folder: string, manifest: AdapterManifest, fingerprintOf: BaseFingerprint): void {
  const { base_model: base } = manifest;
  const fingerprint = fingerprintOf(manifest.format);
  if (base.fingerprint === fingerprint) return;
  throw new UserError(
    `Expected the base model with fingerprint ${base.fingerprint} for the adapter but received one with ${fingerprint}.`,
    {
      file: join(folder, MANIFEST_FILE),
      cure: `The adapter was trained on ${base.path}: give that model. To use it on this one all the same, remove the file.`,
    },
  );
}

/** Compares the tensors of an adapter file with the manifest. */
export function checkTensors(source: TensorSource, manifest: AdapterManifest): void {
  for (const [name, entry] of Object.entries(manifest.parameters)) {
    const matches = source.infos.has(name) && scope(() => tensorChecksum(source.tensor(name))) === entry.sha256;
    if (matches) continue;
    throw new UserError(`Expected the checksum of ${MANIFEST_FILE} for the tensor ${name} but the data differ.`, {
      file: source.path,
      cure: `The file is damaged or was edited: copy it again, or remove ${MANIFEST_FILE} if it was edited on purpose.`,
    });
  }
}

const SAMPLE_BYTES = 64;

/** The fingerprint of the weights in a folder: of their content, or (format 1) of samples of it. */
export function baseFingerprint(
  folder: string,
  format: AdapterManifest['format'] = 2,
  onProgress?: HashProgress,
): string {
  const source = openSafetensors(folder);
  return format === 2 ? weightsFingerprint(source, onProgress) : sampledFingerprint(source);
}

/** A hash over names, types, shapes, and 64 bytes from the start, the middle and the end of every tensor. */
function sampledFingerprint(source: TensorSource): string {
  const hash = createHash('sha256');
  for (const name of [...source.infos.keys()].sort()) {
    const { dtype, shape, bytes } = source.infos.get(name)!;
    hash.update(`${name} ${dtype} ${shape.join(',')}\n`);
    if (bytes > 0) scope(() => sample(hash, source.tensor(name)));
  }
  return `sha256:${hash.digest('hex')}`;
}

function sample(hash: Hash, tensor: Tensor): void {
  const length = Math.min(SAMPLE_BYTES, tensor.nbytes);
  for (const offset of [0, Math.floor((tensor.nbytes - length) / 2), tensor.nbytes - length]) {
    hash.update(bytesAt(tensor, offset, length));
  }
}

function bytesAt(tensor: Tensor, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  tensor.readBytes(offset, bytes);
  return bytes;
}
