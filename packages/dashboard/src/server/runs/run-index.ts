/**
 * All runs, kept up to date. By a look at them every second, and at once where the system tells of a change. Nothing is
 * remembered that is not on disk.
 */
import { type FSWatcher, watch } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import type { RunList, RunSummary } from '../../shared/api.js';
import { notFound } from '../errors.js';
import { Discovery } from './discover.js';
import { handleOf, KnownRun } from './known-run.js';

/** Network disks tell nothing of what other machines write: milliseconds between two looks. */
const INTERVAL = 1000;
/** Shortest time between two looks at one run, in milliseconds. */
const PAUSE = 100;
/** Milliseconds of looking after which others get their turn. */
const SLICE = 25;

export interface RunChange {
  readonly run: string;
  readonly kind: 'changed' | 'reset' | 'removed';
}

type Listener = (change: RunChange) => void;

export class RunIndex {
  readonly #discovery: Discovery;
  readonly #runs = new Map<string, KnownRun>();
  /** Folder -> why its run cannot be read. */
  readonly #unreadable = new Map<string, string>();
  readonly #watchers = new Map<string, FSWatcher>();
  readonly #waiting = new Map<string, NodeJS.Timeout>();
  readonly #listeners = new Set<Listener>();
  #timer: NodeJS.Timeout | undefined;
  #found: ReadonlyMap<string, string> = new Map();
  #nextWalk = 0;
  /** The look under way, and the one after it that was asked for. */
  #current: Promise<void> = Promise.resolve();
  #next: Promise<void> | null = null;
  #closed = false;

  /** @param roots the folders of runs, absolute */
  constructor(roots: readonly string[]) {
    this.#discovery = new Discovery(roots);
  }

  get roots(): readonly string[] {
    return this.#discovery.roots;
  }

  /** Looks once, then again and again until `close`. */
  async open(): Promise<void> {
    await this.refresh();
    const again = (): void => {
      if (this.#closed) return;
      this.#timer = setTimeout(() => void this.#look(false).then(again), INTERVAL);
      this.#timer.unref();
    };
    again();
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const timer of this.#waiting.values()) clearTimeout(timer);
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
    this.#listeners.clear();
  }

  /** Calls `listener` at every change until the function that is returned is called. */
  subscribe(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  get all(): readonly KnownRun[] {
    return [...this.#runs.values()];
  }

  /** @throws ApiError 404 */
  get(id: string): KnownRun {
    const run = this.#runs.get(id);
    if (run === undefined) throw notFound('a run');
    return run;
  }

  find(id: string): KnownRun | undefined {
    return this.#runs.get(id);
  }

  list(): RunList {
    const runs = this.all.map(({ summary }): RunSummary => summary);
    const position = runs.map(({ id, offset }) => `${id}:${offset}`).join(',');
    const unreadable = [...this.#unreadable].map(([folder, why]) => `${folder}: ${why}`);
    return { runs, position, roots: this.roots, problems: [...this.#discovery.problems, ...unreadable] };
  }

  /** A look at all folders that begins after this call; calls meanwhile share it. */
  refresh(): Promise<void> {
    this.#next ??= this.#current.then(() => {
      this.#next = null;
      return this.#look(true);
    });
    return this.#next;
  }

  /** Looks at one run now. */
  touch(run: KnownRun): RunSummary {
    this.#lookAt(run, false);
    return run.summary;
  }

  /** Looks are one after the other. */
  #look(isAsked: boolean): Promise<void> {
    this.#current = this.#current.then(() => this.#lookAtAll(isAsked)).catch((error: unknown) => console.error(error));
    return this.#current;
  }

  async #lookAtAll(isAsked: boolean): Promise<void> {
    const found = await this.#find(isAsked);
    for (const run of this.all) if (!found.has(run.folder)) this.#remove(run);
    let begun = performance.now();
    for (const [folder, root] of found) {
      const id = handleOf(folder);
      const known = this.#runs.get(id);
      const run = known ?? new KnownRun(folder, root);
      this.#runs.set(id, run);
      this.#lookAt(run, known === undefined);
      if (performance.now() - begun < SLICE) continue;
      await turn();
      if (this.#closed) return;
      begun = performance.now();
    }
  }

  /** Large trees of folders are walked less often: a tenth of the time at most. */
  async #find(isAsked: boolean): Promise<ReadonlyMap<string, string>> {
    if (!isAsked && performance.now() < this.#nextWalk) return this.#found;
    const began = performance.now();
    this.#found = await this.#discovery.find();
    this.#nextWalk = performance.now() + 9 * (performance.now() - began);
    return this.#found;
  }

  #lookAt(run: KnownRun, isNew: boolean): void {
    try {
      const { reset, changed } = run.look(Date.now());
      this.#unreadable.delete(run.folder);
      if (reset) this.#tell({ run: run.id, kind: 'reset' });
      if (reset || changed || isNew) this.#tell({ run: run.id, kind: 'changed' });
    } catch (error) {
      this.#unreadable.set(run.folder, (error as Error).message);
    }
    this.#watch(run);
  }

  #remove(run: KnownRun): void {
    this.#runs.delete(run.id);
    this.#unreadable.delete(run.folder);
    this.#unwatch(run.id);
    this.#tell({ run: run.id, kind: 'removed' });
  }

  #tell(change: RunChange): void {
    for (const listener of this.#listeners) listener(change);
  }

  /** Live runs are watched; the others are looked at every second, as all are. */
  #watch(run: KnownRun): void {
    if (!run.isLive || this.#closed) this.#unwatch(run.id);
    else if (!this.#watchers.has(run.id)) this.#startWatching(run);
  }

  #startWatching(run: KnownRun): void {
    try {
      const watcher = watch(run.folder, { persistent: false }, () => this.#soon(run));
      watcher.on('error', () => this.#unwatch(run.id));
      this.#watchers.set(run.id, watcher);
    } catch {
      // no watch is left, or the disk has none: it is looked at every second
    }
  }

  #unwatch(id: string): void {
    this.#watchers.get(id)?.close();
    this.#watchers.delete(id);
  }

  /** Several changes at once are one look. */
  #soon(run: KnownRun): void {
    if (this.#waiting.has(run.id)) return;
    const timer = setTimeout(() => {
      this.#waiting.delete(run.id);
      if (this.#runs.get(run.id) === run) this.#lookAt(run, false);
    }, PAUSE);
    this.#waiting.set(run.id, timer.unref());
  }
}
