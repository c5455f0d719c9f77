/** One run of the list. Its folder as it was seen last, and what is shown of it. */
import { createHash } from 'node:crypto';
import { existsSync, lstatSync, readdirSync, statSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { type LockHolder, listCheckpoints, OwnFiles, RUN_FILES, readHolder } from '@minicpm-finetune/run';
import type { RunState, RunSummary, UserNotes } from '../../shared/api.js';
import { failureOf, lastLineOf } from '../process/console-log.js';
import { LAUNCH_FILE, type Launch, readLaunch } from '../process/launch-record.js';
import { Digest } from './digest.js';
import { NO_NOTES, NOTES_FILE, readNotes } from './notes.js';
import { isAfter, stateOf } from './state.js';

/** What of a checkpoint is needed to resume it. */
const RESUME_FILES = ['optimizer.safetensors', 'rng_state.safetensors', 'trainer_state.json'] as const;

/** A handle for a folder: it says nothing and leads nowhere but through the list. */
export function handleOf(folder: string): string {
  return createHash('sha256').update(folder).digest('base64url').slice(0, 12);
}

export class KnownRun {
  readonly id: string;
  /** The real path. */
  readonly folder: string;
  readonly root: string;
  digest = new Digest();
  notes: UserNotes = NO_NOTES;
  launch: Launch | null = null;
  lock: LockHolder | null = null;
  resumableStep: number | null = null;
  state: RunState = 'killed';
  /** The file became another one since the last look. */
  #inode = 0;
  #size = -1;
  #changed = -1;
  /** When its file last grew by the clock of this machine: that of the disk may be another. */
  #grew = 0;
  #folderState = '';
  #failure: string | null = null;
  #shown = '';

  constructor(folder: string, root: string) {
    this.id = handleOf(folder);
    this.folder = folder;
    this.root = root;
  }

  get eventsFile(): string {
    return join(this.folder, RUN_FILES.events);
  }

  get name(): string {
    return this.digest.name ?? (relative(this.root, this.folder) || basename(this.folder));
  }

  /** Whether its process may still write. */
  get isLive(): boolean {
    return this.state === 'running' || this.state === 'starting' || this.state === 'probably_running';
  }

  /** Looks at the folder again. `reset`: the file is another one than before. */
  look(now: number): { reset: boolean; changed: boolean } {
    const reset = this.#readEvents(now);
    this.#readFolder();
    this.state = this.#stateAt(now);
    const shown = JSON.stringify(this.summary);
    const changed = shown !== this.#shown;
    this.#shown = shown;
    return { reset, changed };
  }

  #readEvents(now: number): boolean {
    const status = lstatSync(this.eventsFile, { throwIfNoEntry: false });
    if (!status?.isFile()) {
      const had = this.#size > 0;
      if (had) this.digest = new Digest();
      this.#size = -1;
      return had;
    }
    const isOther = this.#size >= 0 && (status.ino !== this.#inode || status.size < this.digest.offset);
    if (isOther) this.digest = new Digest();
    if (isOther || status.size !== this.#size || status.mtimeMs !== this.#changed)
      this.digest.read(this.eventsFile, status.size);
    if (this.#size < 0) this.#grew = Math.min(status.mtimeMs, now);
    else if (isOther || status.size !== this.#size) this.#grew = now;
    this.#inode = status.ino;
    this.#size = status.size;
    this.#changed = status.mtimeMs;
    return isOther;
  }

  /** The small files are replaced as a whole, so the folder's time tells of them. */
  #readFolder(): void {
    const status = statSync(this.folder, { throwIfNoEntry: false });
    const state = `${status?.mtimeMs} ${this.#size < 0}`;
    if (state === this.#folderState && Date.now() - (status?.mtimeMs ?? 0) > 2000) return;
    this.#folderState = state;
    // Most folders have none of these files: one look at the names is faster than asking for each.
    const names = status === undefined ? [] : readdirSync(this.folder);
    this.notes = names.includes(NOTES_FILE) ? readNotes(this.folder) : NO_NOTES;
    this.launch = names.includes(LAUNCH_FILE) ? readLaunch(this.folder) : null;
    this.lock = names.includes(RUN_FILES.lock) ? this.#readLock() : null;
    this.resumableStep = listCheckpoints(this.folder, names).findLast(({ path }) => isResumable(path))?.step ?? null;
  }

  #readLock(): LockHolder | null {
    const path = join(this.folder, RUN_FILES.lock);
    if (!lstatSync(path, { throwIfNoEntry: false })?.isFile()) return null;
    try {
      return readHolder(path) ?? null;
    } catch {
      return null; // somebody else's
    }
  }

  #stateAt(now: number): RunState {
    const { digest, lock, launch } = this;
    const before = this.state;
    const state = stateOf(
      {
        start: digest.starts.at(-1) ?? null,
        end: digest.end?.status ?? null,
        grew: this.#grew,
        stepSeconds: digest.lastStep?.step_seconds ?? null,
        lock,
        lockPath: join(this.folder, RUN_FILES.lock),
        launch,
      },
      now,
    );
    const failedStart = launch?.pid != null && state !== 'starting' && isAfter(launch, digest.starts.at(-1) ?? null);
    if (!failedStart) this.#failure = null;
    else if (this.#failure === null || before !== state) this.#failure = failureOf(this.folder);
    return state;
  }

  get summary(): RunSummary {
    const { digest } = this;
    const { lastStep, end, starts } = digest;
    const live = this.isLive;
    return {
      id: this.id,
      name: this.name,
      folder: this.folder,
      state: this.state,
      error: this.#failure ?? end?.error ?? null,
      phase: live && this.state !== 'starting' ? digest.phase : null,
      said: this.state === 'starting' ? lastLineOf(this.folder) : null,
      model: digest.model,
      method: digest.method,
      step: Math.max(lastStep?.step ?? 0, end?.step ?? 0, starts.at(-1)?.resumedAtStep ?? 0),
      totalSteps: digest.totalSteps,
      epoch: lastStep?.epoch ?? null,
      etaSeconds: live && this.state !== 'starting' ? (lastStep?.eta_seconds ?? null) : null,
      loss: lastStep?.loss ?? null,
      bestEvalLoss: digest.bestEvalLoss,
      bestMetric: digest.bestMetric,
      tokensPerSecond: lastStep?.tokens_per_s ?? null,
      peakMemory: digest.peakMemory,
      started: starts[0]?.time ?? this.launch?.time ?? null,
      updated: starts.at(-1)?.lastTime ?? null,
      durationSeconds: duration(starts),
      starts: starts.length,
      warnings: digest.warnings,
      resumableStep: this.resumableStep,
      changed: digest.changed,
      notes: this.notes,
      offset: digest.offset,
    };
  }

  /** What the run wrote and lists as its own; read when it is needed. */
  get ownFiles(): OwnFiles {
    return new OwnFiles(this.folder);
  }

  /** Names of the page's own files in the folder. */
  static readonly pageFiles: readonly string[] = [NOTES_FILE, LAUNCH_FILE];
}

/** Whether a complete checkpoint holds what a resumed run needs. */
export function isResumable(checkpoint: string): boolean {
  return RESUME_FILES.every((name) => existsSync(join(checkpoint, name)));
}

function duration(starts: Digest['starts']): number | null {
  let seconds: number | null = null;
  for (const { time, lastTime } of starts) {
    const length = (Date.parse(lastTime ?? '') - Date.parse(time ?? '')) / 1000;
    if (Number.isFinite(length)) seconds = (seconds ?? 0) + Math.max(0, length);
  }
  return seconds;
}
