/**
 * Finds the run folders below the folders of runs. These are every folder with `events.jsonl`, and those that the page has started. Links are not
 * followed, so nothing outside is ever seen. A folder whose time did not change is not read again.
 */
import { type Dirent, lstatSync, readdirSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { checkpointStep, RUN_FILES } from '@minicpm-finetune/run';
import { LAUNCH_FILE } from '../process/launch-record.js';

/** What a run folder has below it, and no run. */
const OF_A_RUN: ReadonlySet<string> = new Set([RUN_FILES.answers, RUN_FILES.nonfinite, RUN_FILES.logs]);
const DEEPEST = 12;
/** Milliseconds of looking after which others get their turn. */
const SLICE = 25;
/** Milliseconds after which a folder's time tells of every change. */
const SETTLED = 2000;

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

  /** Run folder (its real path) -> the root it lies in. Others get their turn meanwhile: there may be many folders. */
  async find(): Promise<Map<string, string>> {
    const found = new Map<string, string>();
    const problems: string[] = [];
    const seen = new Set<string>();
    for (const named of this.roots) {
      try {
        const root = realpathSync(named);
        await this.#walk(root, (folder) => found.set(folder, root), seen);
      } catch (error) {
        problems.push(`${named}: ${(error as Error).message}`);
      }
    }
    for (const folder of this.#known.keys()) if (!seen.has(folder)) this.#known.delete(folder);
    this.problems = problems;
    return found;
  }

  async #walk(root: string, onRun: (folder: string) => void, seen: Set<string>): Promise<void> {
    let waiting = [root];
    let begun = performance.now();
    for (let depth = 0; depth <= DEEPEST && waiting.length > 0; depth++) {
      const below: string[] = [];
      for (const folder of waiting) {
        if (seen.has(folder)) continue; // a root inside another one
        seen.add(folder);
        const known = this.#lookAgain(folder, depth === 0);
        if (known === null) continue;
        if (known.isRun) onRun(folder);
        for (const name of known.folders) below.push(join(folder, name));
        if (performance.now() - begun < SLICE) continue;
        await turn();
        begun = performance.now();
      }
      waiting = below;
    }
  }

  /** Null: it is gone, or cannot be read. @throws the error of a root */
  #lookAgain(folder: string, isRoot: boolean): Known | null {
    try {
      const { mtimeMs } = lstatSync(folder);
      const known = this.#known.get(folder);
      // A folder that changed within the granularity of its time may change again without showing it.
      if (known?.changed === mtimeMs && Date.now() - mtimeMs >= SETTLED) return known;
      const found = look(folder, mtimeMs);
      this.#known.set(folder, found);
      return found;
    } catch (error) {
      if (isRoot) throw error;
      return null;
    }
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
