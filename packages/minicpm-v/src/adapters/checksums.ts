/**
 * Checksums of tensors, and fingerprints of checkpoints. A base is known by the content of its weights
 * alone: the same weights in other shards, or beside an edited config.json, are the same base. Format 1 knew it by samples.
 */
import { createHash, type Hash } from 'node:crypto';
import { UserError } from '@minicpm-finetune/run';
import { scope, type Tensor, type TensorSource } from '@minicpm-finetune/torch';
import { type HashProgress, tensorChecksum, weightsFingerprint } from '../checkpoint/content.js';
import { openCheckpoint } from '../checkpoint/weights.js';
import { type AdapterManifest, MANIFEST_FILE } from './manifest.js';

/** What the manifest says of the tensors in a file, in the order of `names`. */
export function describeTensors(
  names: Iterable<string>,
  source: TensorSource,
): Pick<AdapterManifest, 'parameter_count' | 'parameters'> {
  const parameters: AdapterManifest['parameters'] = {};
  let count = 0;
  for (const name of names) {
    const { shape, dtype } = source.infos.get(name)!;
    parameters[name] = { shape: [...shape], dtype, sha256: scope(() => tensorChecksum(source.tensor(name))) };
    count += shape.reduce((product, size) => product * size, 1);
  }
  return { parameter_count: count, parameters };
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
  const source = openCheckpoint(folder);
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
