/**
 * Logs of what the ranks besides rank 0 print. `logs/rank-<r>.log` in the run folder, each line with its time; in a temporary folder until there is a
 * run folder, or where it cannot take them.
 */
import { appendFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OwnFiles, RUN_FILES } from '@minicpm-finetune/run';

export class RankLogs {
  /** Unfinished lines, by rank and stream. */
  readonly #unfinished = new Map<string, string>();
  readonly #written = new Set<number>();
  #folder: string | null = null;
  #temporary = true;

  /** Takes what a rank printed on one of its streams. */
  take(rank: number, stream: string, text: string): void {
    const key = `${rank} ${stream}`;
    const lines = ((this.#unfinished.get(key) ?? '') + text).split('\n');
    this.#unfinished.set(key, lines.pop()!);
    for (const line of lines) this.#write(rank, line);
  }

  /** Puts the logs into the run folder from now on, listed as files of the run. Returns false where somebody else's files are in the way. */
  moveTo(runFolder: string): boolean {
    const own = new OwnFiles(runFolder);
    const taken = [...this.#written].some((rank) => own.others(nameOf(rank)).length > 0);
    if (taken || !own.exists) return false;
    const before = this.#folder;
    const texts = [...this.#written].map((rank) => [rank, readFileSync(this.pathOf(rank), 'utf8')] as const);
    this.#folder = runFolder;
    this.#temporary = false;
    this.#written.clear();
    for (const [rank, text] of texts) this.#append(rank, text);
    if (before !== null) rmSync(before, { recursive: true });
    return true;
  }

  /** Where a rank's output is. */
  pathOf(rank: number): string {
    return join(this.#folder!, nameOf(rank));
  }

  has(rank: number): boolean {
    return this.#written.has(rank);
  }

  /** Ends the last lines. A temporary folder goes if it is not needed. */
  close(needed: boolean): void {
    for (const [key, line] of this.#unfinished) if (line !== '') this.#write(Number.parseInt(key, 10), line);
    this.#unfinished.clear();
    if (this.#temporary && !needed && this.#folder !== null) rmSync(this.#folder, { recursive: true });
  }

  #write(rank: number, line: string): void {
    if (line !== '') this.#append(rank, `${new Date().toISOString()} ${line}\n`);
  }

  /** A full disk takes no rank down. */
  #append(rank: number, text: string): void {
    try {
      this.#open(rank);
      appendFileSync(this.pathOf(rank), text);
    } catch {
      // nothing else depends on it
    }
  }

  #open(rank: number): void {
    if (this.#written.has(rank)) return;
    this.#folder ??= mkdtempSync(join(tmpdir(), 'minicpm-finetune-ranks-'));
    mkdirSync(join(this.#folder, RUN_FILES.logs), { recursive: true });
    if (!this.#temporary) {
      const own = new OwnFiles(this.#folder);
      if (existsSync(this.pathOf(rank)) && own.ownership(nameOf(rank)) !== 'own') throw new Error('taken');
      own.noteGrowing(nameOf(rank));
    }
    this.#written.add(rank);
  }
}

const nameOf = (rank: number): string => join(RUN_FILES.logs, `rank-${rank}.log`);
