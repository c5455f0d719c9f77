/** Which ranks see a folder that rank 0 made. Machines without a shared disk have folders of the same name, which are others. */
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { contentOfFile, RUN_FILES } from '@minicpm-finetune/run';
import { attempt, exchangeTexts, fromFirst, settle } from '../parallel/agree.js';
import type { Ranks } from '../parallel/ranks.js';

/** A folder of rank 0, and who can write in it. */
export interface SharedFolder {
  /** Its path, which is rank 0's. */
  readonly path: string;
  readonly ranks: Ranks;
  /** By rank, whether it sees the folder. */
  readonly sees: readonly boolean[];
}

/** By rank, whether it sees the folder of rank 0: it must exist there. Collective. */
function whoSees(folder: string, ranks: Ranks): boolean[] {
  const { rank, group } = ranks;
  if (group.size === 1) return [true];
  const label = 'look for the folder of rank 0';
  const [nonce] = group.exchange([Math.floor(Math.random() * 2 ** 52)], label)[0]!;
  const file = join(folder, `.seen-${nonce!.toString(16)}`);
  const made = attempt(() => {
    if (rank === 0) writeFileSync(file, '', { flag: 'wx' });
  });
  settle(ranks, label, made);
  const sees = group.exchange([existsSync(file) ? 1 : 0], label).map(([flag]) => flag === 1);
  if (rank === 0) rmSync(file, { force: true });
  return sees;
}

/** Makes a folder afresh, where rank 0 says. Collective. */
export function makeFolder(folder: string, ranks: Ranks): SharedFolder {
  const path = fromFirst(ranks, 'folder to write', () => {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    return resolve(folder);
  });
  return { path, ranks, sees: whoSees(path, ranks) };
}

/**
 * A folder of a complete checkpoint, which may be elsewhere on each rank. A rank sees it where its manifest is rank 0's and `file` is there: the
 * same disk, or a copy. Collective.
 */
export function openFolder(path: string, ranks: Ranks, file: string): SharedFolder {
  const manifest = join(path, RUN_FILES.manifest);
  const has = existsSync(manifest) && existsSync(join(path, file));
  const all = exchangeTexts(ranks.group, has ? contentOfFile(manifest).sha256 : '', 'checkpoint to resume');
  return { path, ranks, sees: all.map((own, rank) => rank === 0 || (own !== '' && own === all[0])) };
}
