/**
 * The output file of `generate`, owned by one process. A line for each record, appended when it is answered; settings
 * beside it in `<output>.settings.json`; `<output>.lock` while a process writes. A file that this program did not write
 * is never changed.
 */
import {
  appendFileSync,
  closeSync,
  existsSync,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { expected, type FileLock, lockOf, removeEmpty, shown, takeLock, UserError } from '@minicpm-finetune/run';
import type { AnswerLine } from '../../data/question.js';
import { isAnswer, type Line, outdatedFile } from './match.js';
import { type AnswerSettings, readSettings } from './settings.js';

export class AnswerFile implements Disposable {
  /** As the user wrote it. */
  readonly name: string;
  /** Of the answers that are there; null: the file is new. */
  readonly settings: AnswerSettings | null;
  readonly lines: readonly Line[];
  /** Said about what was found. */
  readonly notices: readonly string[];
  /** Where the name leads. */
  readonly #path: string;
  readonly #lock: FileLock;
  /** The first folder that was made for the file. */
  readonly #made: string | undefined;
  #descriptor: number | undefined;
  #bytes = 0;

  /**
   * Takes the file, reads it, and repairs a last line that was cut off. Nothing is made but folders and the lock, which are gone again if
   * no answer follows.
   *
   * @throws UserError if another process has it, if this program did not write it, and for a line that is none
   */
  constructor(name: string) {
    this.name = name;
    const folder = dirname(resolve(name));
    this.#made = makeFolder(folder, name);
    requireFile(name);
    this.#path = existsSync(name) ? realpathSync(name) : join(realpathSync(folder), basename(name));
    this.#lock = takeLock(lockOf(name), { what: name, flag: '--output' });
    try {
      this.settings = this.#readSettings();
      const { lines, notices } = this.settings === null ? { lines: [], notices: [] } : readLines(this.#path, name);
      this.lines = lines;
      this.notices = notices;
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  get #settingsFile(): string {
    return `${this.#path}.settings.json`;
  }

  #readSettings(): AnswerSettings | null {
    const there = existsSync(this.#path) && statSync(this.#path).size > 0;
    const settings = existsSync(this.#settingsFile) ? readFileSync(this.#settingsFile, 'utf8') : null;
    const read = settings === null ? null : readSettings(settings);
    if (settings !== null && read === null) throw notOurs(this.#settingsFile);
    if (!there) return null;
    if (read === null) throw notOurs(this.name);
    if (read !== 'of an earlier version') return read;
    throw new UserError(
      'Expected settings with the content of model and records but received those of an earlier version.',
      {
        file: this.#settingsFile,
        flag: '--output',
        cure: 'Give another file: nobody can know whether these answers are those of the model as it is now.',
      },
    );
  }

  /** Writes the settings before the first line, and opens the file. */
  begin(settings: AnswerSettings): void {
    if (this.settings === null) this.#replace(this.#settingsFile, `${JSON.stringify(settings, null, 2)}\n`);
    this.#open();
  }

  #open(): void {
    this.#descriptor = openSync(this.#path, 'a');
    this.#bytes = fstatSync(this.#descriptor).size;
  }

  /** Makes these the lines of the file: appends what is missing, or else replaces all at once. `outdated` ones go to a file of their own. */
  become(lines: readonly Line[], outdated: readonly AnswerLine[]): void {
    if (outdated.length > 0) this.#writing(() => appendFileSync(outdatedFile(this.#path), textOf(outdated)));
    const there = new Set(this.lines.map((line) => JSON.stringify(line)));
    const wanted = new Set(lines.map((line) => JSON.stringify(line)));
    if ([...there].every((line) => wanted.has(line))) {
      this.append(lines.filter((line) => !there.has(JSON.stringify(line))));
      return;
    }
    closeSync(this.#descriptor!);
    this.#replace(this.#path, textOf(lines));
    this.#open();
  }

  /** @throws UserError if the disk is full, or if something else wrote the file meanwhile */
  append(lines: readonly Line[]): void {
    if (lines.length === 0) return;
    const now = statSync(this.#path, { throwIfNoEntry: false });
    const own = fstatSync(this.#descriptor!);
    if (now?.ino !== own.ino || own.size !== this.#bytes) {
      throw new UserError(
        `Expected ${this.name} as it was written here but something else ${now === undefined ? 'removed' : 'changed'} it.`,
        {
          file: this.name,
          flag: '--output',
          cure: 'Leave the file alone while it is written, and give the same command again: what is missing is asked.',
        },
      );
    }
    const text = Buffer.from(textOf(lines));
    this.#writing(() => appendFileSync(this.#descriptor!, text));
    this.#bytes += text.length;
  }

  #replace(path: string, text: string): void {
    const temporary = `${path}.${process.pid}.tmp`;
    this.#writing(() => {
      try {
        writeFileSync(temporary, text);
        renameSync(temporary, path);
      } finally {
        rmSync(temporary, { force: true });
      }
    });
  }

  #writing(body: () => void): void {
    try {
      body();
    } catch (cause) {
      throw new UserError(`Expected to write ${this.name} but received: ${(cause as Error).message}.`, {
        file: this.name,
        flag: '--output',
        cure: 'Free some space or repair the permissions, and give the same command again: what is missing is asked.',
        cause,
      });
    }
  }

  /** Gives the file free. */
  [Symbol.dispose](): void {
    if (this.#descriptor !== undefined) closeSync(this.#descriptor);
    this.#descriptor = undefined;
    this.#lock.release();
    if (this.#made !== undefined && !existsSync(this.#path)) removeEmpty(dirname(resolve(this.name)), this.#made);
  }
}

/** The first folder that was made; undefined: all were there. */
function makeFolder(folder: string, name: string): string | undefined {
  try {
    return mkdirSync(folder, { recursive: true });
  } catch (cause) {
    throw new UserError(`Expected a folder for ${name} but received: ${(cause as Error).message}.`, {
      file: folder,
      flag: '--output',
      cure: 'Name a file in a folder that can be made and written.',
      cause,
    });
  }
}

function requireFile(name: string): void {
  const status = statSync(name, { throwIfNoEntry: false });
  if (status === undefined && lstatSync(name, { throwIfNoEntry: false }) !== undefined)
    throw expected('a file', '--output', name, { flag: '--output', cure: 'It is a link to what is not there.' });
  if (status === undefined || status.isFile()) return;
  const what = status.isDirectory() ? 'a folder' : 'a device or a pipe';
  throw new UserError(`Expected a file for --output but received ${shown(name)}, which is ${what}.`, {
    file: name,
    flag: '--output',
    cure: 'Name a file: the answers are resumed from it.',
  });
}

const notOurs = (file: string): UserError =>
  new UserError('Expected a new file, or one that this command wrote, but received one with another content.', {
    file,
    flag: '--output',
    cure: 'Give another file: what others wrote is never changed.',
  });

const textOf = (lines: readonly Line[]): string => lines.map((line) => `${JSON.stringify(line)}\n`).join('');

/** All lines. A last one without its end was being written when a process was killed: it is cut off, unless it is whole. */
function readLines(path: string, name: string): { lines: Line[]; notices: string[] } {
  const text = readFileSync(path, 'utf8');
  const rows = text.split('\n');
  const last = rows.pop()!;
  const notices: string[] = [];
  if (last !== '' && parseLine(last) !== null) {
    appendFileSync(path, '\n');
    rows.push(last);
  } else if (last !== '') {
    truncateSync(path, Buffer.byteLength(text.slice(0, text.length - last.length)));
    notices.push(`the last line of ${name} was cut off: it is removed, and its record is asked again.`);
  }
  const lines = rows.flatMap((row, i): Line[] => {
    if (row.trim() === '') return [];
    const line = parseLine(row);
    if (line !== null) return [line];
    throw new UserError('Expected the answer to a record for a line of the output but received something else.', {
      file: name,
      line: i + 1,
      cure: 'Delete the line: its record is then asked again.',
    });
  });
  return { lines, notices };
}

function parseLine(row: string): Line | null {
  let line: Partial<AnswerLine & { error: string }> | null;
  try {
    line = JSON.parse(row);
  } catch {
    return null;
  }
  if (typeof line !== 'object' || line === null || !Number.isSafeInteger(line.record)) return null;
  if (typeof line.error === 'string') return line as Line;
  const { answer, content } = line;
  const whole = typeof answer === 'string' && typeof content?.text === 'string' && Array.isArray(content.images);
  return whole ? (line as Line) : null;
}

/** What was wrong with the records that could not be asked, by record. */
export function badLines(lines: readonly Line[]): Map<number, string> {
  return new Map(lines.flatMap((line): [number, string][] => (isAnswer(line) ? [] : [[line.record, line.error]])));
}
