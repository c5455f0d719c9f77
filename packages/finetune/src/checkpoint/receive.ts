/**
 * Brings the checkpoint to resume to machines without it. Rank 0 sends its files, but for the optimizer's, of which each rank asks what it
 * needs (streaming.ts). They lie in the run folder of that machine while the run lasts.
 */
import { closeSync, mkdirSync, openSync, readSync, rmSync, statSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { contentOfFile, RUN_FILES, removeEmpty } from '@minicpm-finetune/run';
import { fromTypedArray, type Group, ops, scope, type Tensor } from '@minicpm-finetune/torch';
import { type Attempt, attempt, exchangeTexts, fromFirst, settle } from '../parallel/agree.js';
import type { Ranks } from '../parallel/ranks.js';
import { readManifest } from './durable.js';
import { OPTIMIZER_FILE } from './optimizer-file.js';
import { openFolder } from './shared-folder.js';
import { MOST_BYTES } from './streaming.js';

const LABEL = 'checkpoint to other machines';

/** A checkpoint as this rank has it. */
export interface OwnCheckpoint extends Disposable {
  readonly folder: string;
}

/**
 * Brings a checkpoint of rank 0 to every machine that does not have it, into `runFolder` there; elsewhere it stays where it is. Dispose of it
 * after the run: folders that were made for it go with it. Collective.
 *
 * @throws on all ranks what went wrong on one, with its rank
 */
export function bringCheckpoint(folder: string, runFolder: string, ranks: Ranks): OwnCheckpoint {
  const { rank, host, group } = ranks;
  const { sees } = openFolder(folder, ranks, RUN_FILES.manifest);
  if (sees[rank] && sees.every(Boolean)) return { folder, [Symbol.dispose]: () => {} };
  const hosts = exchangeTexts(group, sees[rank] ? '' : host, LABEL);
  const receivers = hosts.flatMap((own, r) => (own !== '' && hosts.indexOf(own) === r ? [r] : []));
  const target = join(runFolder, `.received-checkpoint-${host}`);
  const receives = receivers.includes(rank);
  let made: string | undefined;
  const remove = (): void => {
    if (receives) rmSync(target, { recursive: true, force: true });
    if (made !== undefined) removeEmpty(runFolder, made);
  };
  const begin = (): void => {
    remove(); // of a run that was killed
    if (receives) made = mkdirSync(runFolder, { recursive: true });
  };
  try {
    settle(ranks, LABEL, attempt(begin));
    const files = fromFirst(ranks, LABEL, () => filesOf(folder));
    for (const file of files) sendFile(file, { ranks, receivers, from: folder, to: target });
    settle(
      ranks,
      LABEL,
      attempt(() => receives && check(target)),
    );
    const own = sees[rank] ? folder : target;
    const there = openFolder(own, ranks, RUN_FILES.manifest).sees.indexOf(false);
    if (there >= 0) throw new Error(`Expected the checkpoint on the machine of rank ${there} but it is not there`);
    return { folder: own, [Symbol.dispose]: remove };
  } catch (error) {
    remove();
    throw error;
  }
}

/** The files to send, with their bytes. */
function filesOf(folder: string): { name: string; bytes: number }[] {
  const manifest = join(folder, RUN_FILES.manifest);
  const listed = readManifest(manifest).files.filter(({ name }) => name !== OPTIMIZER_FILE);
  return [...listed, { name: RUN_FILES.manifest, bytes: statSync(manifest).size }];
}

interface Way {
  readonly ranks: Ranks;
  /** Ranks that write what comes. */
  readonly receivers: readonly number[];
  readonly from: string;
  readonly to: string;
}

/** One file, piece by piece: a rank that fails says so before the next piece. */
function sendFile({ name, bytes }: { name: string; bytes: number }, { ranks, receivers, from, to }: Way): void {
  const { rank, group } = ranks;
  const receives = receivers.includes(rank);
  const path = join(rank === 0 ? from : to, name);
  const most = Math.floor(MOST_BYTES / receivers.length);
  let file: number | null = null;
  let state: Attempt<void> = attempt(() => {
    if (receives) mkdirSync(dirname(path), { recursive: true });
    if (rank === 0 || receives) file = openSync(path, rank === 0 ? 'r' : 'w');
  });
  for (let start = 0; start < bytes; start += most) {
    const failed = group.exchange(['error' in state ? 1 : 0], LABEL);
    if (failed.some(([flag]) => flag === 1)) break;
    state = scope((): Attempt<void> => {
      const length = Math.min(most, bytes - start);
      const read = attempt(() => (rank === 0 ? readAt(file!, start, length) : null));
      const sent = ('value' in read && read.value) || ops.zeros([length], { dtype: 'uint8' });
      const incoming = sendTo(group, rank === 0 ? sent : null, { receivers, length: receives ? length : 0 });
      if ('error' in read) return read;
      return attempt(() => {
        if (receives) writeAt(file!, incoming.toTypedArray() as Uint8Array, start);
      });
    });
  }
  if (file !== null) closeSync(file);
  settle(ranks, LABEL, state);
}

/** From rank 0 to the receivers; returns what came. In the caller's scope. */
function sendTo(
  group: Group,
  bytes: Tensor | null,
  { receivers, length }: { readonly receivers: readonly number[]; readonly length: number },
): Tensor {
  const nothing = (): Tensor => ops.zeros([0], { dtype: 'uint8' });
  const every = Array.from({ length: group.size }, (_, r) => r);
  const incoming = every.map((r) => (r === 0 ? ops.zeros([length], { dtype: 'uint8' }) : nothing()));
  const outgoing = every.map((r) => (bytes !== null && receivers.includes(r) ? bytes : nothing()));
  group.alltoall(outgoing, incoming, LABEL).wait();
  return incoming[0]!;
}

function readAt(file: number, start: number, length: number): Tensor {
  const bytes = new Uint8Array(length);
  for (let read = 0; read < length; ) {
    const count = readSync(file, bytes, read, length - read, start + read);
    if (count === 0) throw new Error(`Expected ${start + length} bytes but the file ends at ${start + read}`);
    read += count;
  }
  return fromTypedArray(bytes, [length], 'uint8');
}

function writeAt(file: number, bytes: Uint8Array, start: number): void {
  for (let written = 0; written < bytes.length; )
    written += writeSync(file, bytes, written, bytes.length - written, start + written);
}

/** Compares what came with the manifest that came with it. */
function check(folder: string): void {
  for (const { name, sha256 } of readManifest(join(folder, RUN_FILES.manifest)).files) {
    if (name === OPTIMIZER_FILE || contentOfFile(join(folder, name)).sha256 === sha256) continue;
    throw new Error(`Expected ${name} as rank 0 sent it but its content is another`);
  }
}
