/**
 * Writes files of tensors by all ranks of a run. Rank 0 makes each file in its full size; then every rank writes the ranges it holds, and
 * flushes them. The bytes are those that one rank would write. Ranks that do not see the folder send theirs to rank 0 (streaming.ts).
 */
import { join } from 'node:path';
import { createSafetensors, type SafetensorsPlan, SafetensorsWriter, scope } from '@minicpm-finetune/torch';
import { attempt, exchangeLists, settle } from '../parallel/agree.js';
import type { Ranks } from '../parallel/ranks.js';
import { numbersOf } from '../parallel/segment.js';
import { dealOut, type HeldTensor, inPieces, type Piece } from './held.js';
import type { SharedFolder } from './shared-folder.js';
import { sendPieces } from './streaming.js';

/** Most numbers that are read at once: what is put in order for the file is copied. */
const PIECE = 4 << 20;

/**
 * Writes files of these plans, by their names. Returns when all of them are on the disk. Collective: `tensors` has the same names on all ranks,
 * each tensor of a plan among them.
 *
 * @throws on all ranks what went wrong on one, with its rank
 */
export function writeTensorFiles(
  folder: SharedFolder,
  files: ReadonlyMap<string, SafetensorsPlan>,
  tensors: ReadonlyMap<string, HeldTensor>,
): void {
  const { path, ranks, sees } = folder;
  const made = attempt(() => {
    if (ranks.rank === 0) for (const [name, plan] of files) createSafetensors(join(path, name), plan);
  });
  settle(ranks, 'new files', made);
  const dealt = deal(tensors, ranks, sees);
  const own = attempt(() => {
    if (sees[ranks.rank]) writeOwn(folder, files, tensors, dealt[ranks.rank]!);
  });
  settle(ranks, 'own ranges', own);
  sendPieces(folder, { files, tensors, dealt });
}

/** Who writes what, by rank. Collective. */
function deal(tensors: ReadonlyMap<string, HeldTensor>, { group }: Ranks, sees: readonly boolean[]): Piece[][] {
  const own = [...tensors.values()].flatMap(({ start, length }) => [start, length]);
  const claims = exchangeLists(group, own, 'ranges of tensors');
  const dealt: Piece[][] = claims.map(() => []);
  [...tensors].forEach(([name, tensor], i) => {
    const held = claims.map((list) => ({ start: list[2 * i]!, length: list[2 * i + 1]! }));
    for (const [rank, piece] of dealOut(name, numbersOf(tensor.shape), held, sees).entries())
      if (piece.length > 0) dealt[rank]!.push(piece);
  });
  return dealt;
}

function writeOwn(
  { path }: SharedFolder,
  files: ReadonlyMap<string, SafetensorsPlan>,
  tensors: ReadonlyMap<string, HeldTensor>,
  pieces: readonly Piece[],
): void {
  const byName = new Map(pieces.map((piece) => [piece.name, piece]));
  for (const [file, plan] of files) {
    using writer = new SafetensorsWriter(join(path, file), plan);
    for (const name of plan.tensors.keys()) {
      const piece = byName.get(name);
      if (piece === undefined) continue;
      for (const { start, length } of inPieces(piece, PIECE))
        scope(() => writer.write(name, start, tensors.get(name)!.read(start, length)));
    }
    writer.flush();
  }
}
