/**
 * Finds the run folders below the folders of runs. These are every folder with `events.jsonl`, and those that the page has started. Links are not
 * followed, so nothing outside is ever seen. A folder whose time did not change is not read again.
 */
import { type Dirent, lstatSync, readdirSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { checkpointStep, RUN_FILES } from '@minicpm-finetune/run';
import { LAUNCH_FILE } from '../process/launch-record.js';

/** What a run folder has below it, and no run. */
const OF_A_RUN: ReadonlySet<string> = new Set([RUN_FILES.answers, RUN_FILES.nonfinite, RUN_FILES.logs]);
const DEEPEST = 12;

interface Known {
  changed: number;
  isRun: boolean;
  folders: readonly string[];
}

export class Discovery {
  readonly roots: readonly string[];
  /** Folders that cannot be read, and why. */
  problems: readonly string[] = [];
  readonly #known = new Map<string, Known>();

  /** @param roots folders; links to folders are followed here, and only here */
  constructor(roots: readonly string[]) {
    this.roots = roots;
  }

  /** Run folder (its real path) -> the root it lies in. */
  find(): Map<string, string> {
    const found = new Map<string, string>();
    const problems: string[] = [];
    const seen = new Set<string>();
    for (const root of this.roots) {
      try {
        this.#walk(realpathSync(root), 0, (folder) => found.set(folder, realpathSync(root)), seen);
      } catch (error) {
        problems.push(`${root}: ${(error as Error).message}`);
      }
    }
    for (const folder of this.#known.keys()) if (!seen.has(folder)) this.#known.delete(folder);
    this.problems = problems;
    return found;
  }

  #walk(folder: string, depth: number, onRun: (folder: string) => void, seen: Set<string>): void {
    if (seen.has(folder)) return; // a root inside another one
    const status = lstatSync(folder, { throwIfNoEntry: false });
    if (status === undefined) {
      if (depth > 0) return;
      throw new Error('there is no such folder');
    }
    seen.add(folder);
    let known = this.#known.get(folder);
    // A folder that changed within the granularity of its time may change again without showing it.
    if (known?.changed !== status.mtimeMs || Date.now() - status.mtimeMs < 2000) {
      try {
        known = look(folder, status.mtimeMs);
      } catch (error) {
        if (depth === 0) throw error;
        return; // somebody else's
      }
      this.#known.set(folder, known);
    }
    if (known.isRun) onRun(folder);
    if (depth >= DEEPEST) return;
    for (const name of known.folders) this.#walk(join(folder, name), depth + 1, onRun, seen);
  }
}

function look(folder: string, changed: number): Known {
  const entries = readdirSync(folder, { withFileTypes: true });
  const isRun = entries.some(
    (entry) => entry.isFile() && (entry.name === RUN_FILES.events || entry.name === LAUNCH_FILE),
  );
  const folders = entries.filter((entry) => mayHoldRuns(entry, isRun)).map(({ name }) => name);
  return { changed, isRun, folders };
}

function mayHoldRuns(entry: Dirent, isInRun: boolean): boolean {
  const { name } = entry;
  if (!entry.isDirectory() || name.startsWith('.') || name === 'node_modules') return false;
  return !isInRun || (!OF_A_RUN.has(name) && checkpointStep(name) === undefined);
}
