/**
 * Prints and records the results of a device check. One line for each check, printed as soon as it is known, and all of
 * them as JSON in a file, so a run that is cut off still reports. A check that fails or throws never keeps the next one
 * from running.
 */
import { writeFileSync, writeSync } from 'node:fs';

/** What one check found. `null` for ok: measured, and not judged. */
export interface Outcome {
  readonly ok: boolean | null;
  /** What was found, in a line. */
  readonly found: string;
  /** The same as numbers. */
  readonly figures?: Readonly<Record<string, unknown>>;
}

export interface Entry extends Outcome {
  readonly check: string;
  readonly seconds: number;
}

export class Board {
  readonly entries: Entry[] = [];
  readonly #started = performance.now();

  readonly #about: Readonly<Record<string, unknown>>;
  /** Names of checks, or beginnings of them: only these, and not those. */
  readonly #chosen: { readonly only: readonly string[]; readonly skip: readonly string[] };
  readonly #file: string | null;

  constructor(
    about: Readonly<Record<string, unknown>>,
    chosen: { readonly only: readonly string[]; readonly skip: readonly string[] },
    file: string | null,
  ) {
    this.#about = about;
    this.#chosen = chosen;
    this.#file = file;
  }

  get failures(): number {
    return this.entries.filter(({ ok }) => ok === false).length;
  }

  /** Seconds since the board was opened. */
  get seconds(): number {
    return (performance.now() - this.#started) / 1000;
  }

  wants(check: string): boolean {
    const among = (names: readonly string[]): boolean => names.some((name) => check === name || check.startsWith(name));
    return (this.#chosen.only.length === 0 || among(this.#chosen.only)) && !among(this.#chosen.skip);
  }

  /** Carries out a check if it was asked for. */
  async run(check: string, work: () => Outcome | Promise<Outcome>): Promise<void> {
    if (!this.wants(check)) return;
    const start = this.seconds;
    let outcome: Outcome;
    try {
      outcome = await work();
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      outcome = { ok: false, found: text.trim().split('\n').slice(-6).join(' | ') };
    }
    this.#add({ check, ...outcome, seconds: Number((this.seconds - start).toFixed(1)) });
  }

  #add(entry: Entry): void {
    this.entries.push(entry);
    const mark = entry.ok === null ? '    ' : entry.ok ? 'ok  ' : 'FAIL';
    const time = `${entry.seconds.toFixed(1)} s`.padStart(8);
    line(`${mark} ${time} ${this.seconds.toFixed(0).padStart(5)} s  ${entry.check.padEnd(28)} ${entry.found}`);
    this.#write();
  }

  #write(): void {
    if (this.#file === null) return;
    const { failures, seconds, entries } = this;
    const text = JSON.stringify({ ...this.#about, failures, seconds: Math.round(seconds), checks: entries }, null, 1);
    writeFileSync(this.#file, `${text}\n`);
  }
}

/** A line on standard output, at once. */
export function line(text: string): void {
  writeSync(1, `${text}\n`);
}
