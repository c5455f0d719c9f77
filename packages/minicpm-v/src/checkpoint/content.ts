/**
 * Weights known by their content. A hash over names, types, shapes and every byte. The same weights in other shards, in another folder, or
 * beside an edited config.json have the same one. Digests of files are remembered (`remembering` of packages/run).
 */
import { createHash } from 'node:crypto';
import { atOnce, remembering, type Steps } from '@minicpm-finetune/run';
import { ops, scope, type Tensor, type TensorInfo, type TensorSource } from '@minicpm-finetune/torch';

/** Tells how many bytes of how many are read. Not called for what is remembered. */
export type HashProgress = (done: { readonly bytes: number; readonly of: number }) => void;

const KIND = 'tensors-1';
const CHUNK_BYTES = 4 << 20;

/** sha256 of the elements in row-major order, little-endian. */
export function tensorChecksum(tensor: Tensor, onBytes?: (count: number) => void): string {
  const hash = createHash('sha256');
  scope(() => {
    const host = ops.contiguous(tensor.device === 'cpu' ? tensor : ops.toDevice(tensor, 'cpu', tensor.dtype));
    const bytes = new Uint8Array(Math.min(CHUNK_BYTES, host.nbytes));
    for (let offset = 0; offset < host.nbytes; offset += CHUNK_BYTES) {
      const part = bytes.subarray(0, Math.min(CHUNK_BYTES, host.nbytes - offset));
      host.readBytes(offset, part);
      hash.update(part);
      onBytes?.(part.length);
    }
  });
  return hash.digest('hex');
}

/** The fingerprint of weights in files. The first time, all of them are read. */
export const weightsFingerprint = (source: TensorSource, onProgress?: HashProgress): string =>
  atOnce(fingerprinting(source, onProgress));

/** The same in steps. */
export function* fingerprinting(source: TensorSource, onProgress?: HashProgress): Steps<string> {
  const files = new Map<string, [string, TensorInfo][]>();
  for (const [name, info] of source.infos) {
    const own = files.get(info.file);
    if (own === undefined) files.set(info.file, [[name, info]]);
    else own.push([name, info]);
  }
  const of = [...source.infos.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  let before = 0; // bytes of the files that are done
  const lines: string[] = [];
  for (const [file, entries] of files) {
    let bytes = before;
    const digests = yield* remembering(KIND, file, () =>
      digestsOf(source, entries, (count) => {
        bytes += count;
        onProgress?.({ bytes, of });
      }),
    );
    before += entries.reduce((sum, [, info]) => sum + info.bytes, 0);
    for (const [name, info] of entries) lines.push(lineOf(name, info, digests[name]!));
  }
  return fingerprintOf(lines);
}

function* digestsOf(
  source: TensorSource,
  entries: readonly [string, TensorInfo][],
  onBytes: (count: number) => void,
): Steps<Record<string, string>> {
  const digests: [string, string][] = [];
  for (const [name, info] of entries) digests.push([name, yield* storedChecksum(source, name, info.bytes, onBytes)]);
  return Object.fromEntries(digests);
}

/** The same of a tensor in a file, of which no more than a part is in memory. */
function* storedChecksum(
  source: TensorSource,
  name: string,
  size: number,
  onBytes: (count: number) => void,
): Steps<string> {
  const hash = createHash('sha256');
  const bytes = new Uint8Array(Math.min(CHUNK_BYTES, size));
  for (let offset = 0; offset < size; offset += CHUNK_BYTES) {
    const part = bytes.subarray(0, Math.min(CHUNK_BYTES, size - offset));
    source.readBytes(name, offset, part);
    hash.update(part);
    onBytes(part.length);
    yield;
  }
  return hash.digest('hex');
}

/** The fingerprint that these tensors have when they are saved under these names. */
export function tensorsFingerprint(tensors: Iterable<readonly [string, Tensor]>): string {
  return fingerprintOf([...tensors].map(([name, tensor]) => lineOf(name, tensor, tensorChecksum(tensor))));
}

const lineOf = (name: string, { dtype, shape }: Pick<TensorInfo, 'dtype' | 'shape'>, digest: string): string =>
  `${JSON.stringify(name)} ${dtype} ${shape.join(',')} ${digest}\n`;

function fingerprintOf(lines: readonly string[]): string {
  const hash = createHash('sha256');
  for (const line of [...lines].sort()) hash.update(line);
  return `content-sha256:${hash.digest('hex')}`;
}
