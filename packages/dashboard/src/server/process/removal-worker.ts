/** The thread that deletes a checkpoint or a run. See `removal.ts`. */
import { existsSync, lstatSync, readdirSync, renameSync, rmdirSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { contentOfFile, OWN_FILES, OwnFiles, RUN_FILES, removedCheckpointName, takeLock } from '@minicpm-finetune/run';
import { NOTES_FILE } from '../runs/notes.js';
import { jsonOfFile } from '../runs/small-file.js';
import { CONSOLE_LOG } from './console-log.js';
import { LAUNCH_FILE } from './launch-record.js';
import type { RemovalRequest, Removed } from './removal.js';

interface Listed {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

const { folder, checkpoint } = workerData as RemovalRequest;
parentPort!.postMessage(remove());

function remove(): Removed {
  using _ = takeLock(join(folder, RUN_FILES.lock), { what: folder }); // no run begins meanwhile
  return checkpoint === null ? removeRun() : removeCheckpoint(checkpoint);
}

function removeCheckpoint(name: string): Removed {
  const path = join(folder, name);
  const all = filesBelow(path);
  const own = provenIn(path);
  if (own === null) return refusal(`Nothing proves what is in ${path}: its ${RUN_FILES.manifest} cannot be read.`);
  // What is half removed must never be taken for a checkpoint.
  const step = Number(name.slice('checkpoint-'.length));
  const aside = join(folder, removedCheckpointName(step));
  const left = all.filter((file) => !own.has(file));
  const place = left.length === 0 && !existsSync(aside) ? aside : path;
  if (place === aside) renameSync(path, aside);
  for (const file of [RUN_FILES.manifest, ...own]) rmSync(join(place, file), { force: true });
  removeEmptyFolders(place);
  return { removed: own.size, left: left.map((file) => join(name, file)), refused: null };
}

function removeRun(): Removed {
  const own = new OwnFiles(folder);
  const hasEvents = existsSync(join(folder, RUN_FILES.events));
  if (hasEvents && !own.exists)
    return refusal(
      `Nothing proves which files of ${folder} are the run's: a run of an earlier version wrote no ${OWN_FILES}.`,
    );
  const names = own.names.filter((name) => own.ownership(name) === 'own');
  for (const name of [...names, OWN_FILES, NOTES_FILE, LAUNCH_FILE, CONSOLE_LOG]) {
    const status = lstatSync(join(folder, name), { throwIfNoEntry: false });
    if (status?.isFile()) rmSync(join(folder, name));
  }
  rmSync(join(folder, RUN_FILES.lock), { force: true });
  const left = filesBelow(folder);
  removeEmptyFolders(folder);
  return { removed: names.length, left, refused: null };
}

/** Files whose content is that of the manifest, and the manifest; null: there is none that can be read. */
function provenIn(path: string): Set<string> | null {
  try {
    const { files } = jsonOfFile(join(path, RUN_FILES.manifest)) as { files: readonly Listed[] };
    const own = files.filter(({ name, bytes, sha256 }) => {
      const file = join(path, name);
      if (relative(path, file).startsWith('..') || !lstatSync(file, { throwIfNoEntry: false })?.isFile()) return false;
      return lstatSync(file).size === bytes && contentOfFile(file).sha256 === sha256;
    });
    return new Set([RUN_FILES.manifest, ...own.map(({ name }) => name)]);
  } catch {
    return null;
  }
}

const refusal = (refused: string): Removed => ({ removed: 0, left: [], refused });

function filesBelow(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(path, join(entry.parentPath, entry.name)));
}

function removeEmptyFolders(path: string): void {
  const folders = readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort((a, b) => b.length - a.length);
  for (const one of [...folders, path]) if (readdirSync(one).length === 0) rmdirSync(one);
}
