/**
 * `run_files.jsonl`: the files that a run wrote. With sizes and checksums: by it, and by nothing else, is decided what a run or a later
 * one may replace or remove: a file of another content or another name belongs to somebody else.
 *
 *     {"format":1}                                                  the first line
 *     {"file":"run.json","bytes":812,"sha256":"…"}
 *     {"file":"events.jsonl","bytes":0,"sha256":"…","grows":true}   it begins so; whole lines follow
 *     {"folder":"checkpoint-8","sha256":"…"}                        of its manifest.json, which lists the files
 *     {"began":true}                                                the first optimizer step was taken
 *
 * A line is written before the file takes its name, so that a killed process leaves no file without one; of a name with several lines
 * each content is the run's. Names are relative: the run folder may be moved and copied.
 */
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { contentOfFile, type FileContent } from './file-content.js';
import { isWhole } from './growing-file.js';
import { removeEmpty } from './lock.js';

export const OWN_FILES = 'run_files.jsonl';
/** Here a file is written before it takes its name. */
export const UNFINISHED = '.unfinished';
const FIRST_LINE = JSON.stringify({ format: 1 });
/** In every checkpoint, written last: its files with sizes and checksums. */
const MANIFEST = 'manifest.json';

interface Entry extends FileContent {
  readonly grows: boolean;
}

/** Whose a path of a run folder is. `changed`: the run wrote a file of this name, and someone changed it since. */
export type Ownership = 'absent' | 'own' | 'changed' | 'foreign';

export class OwnFiles {
  readonly folder: string;
  readonly #files = new Map<string, Entry[]>();
  readonly #folders = new Map<string, Set<string>>();
  /** Files that were compared or written by this process, as they were then: no need to read them again. */
  readonly #seen = new Map<string, string>();
  #began = false;
  #listed = false;

  /** Reads the list of a run folder. */
  constructor(folder: string) {
    this.folder = folder;
    const lines = lstatSync(this.path, { throwIfNoEntry: false })?.isFile()
      ? readFileSync(this.path, 'utf8').split('\n')
      : [];
    lines.pop(); // nothing, or a line without its end
    this.#listed = lines[0] === FIRST_LINE;
    if (this.#listed) for (const line of lines.slice(1)) this.#take(line);
  }

  get path(): string {
    return join(this.folder, OWN_FILES);
  }

  /** Whether there is a list. A run of an earlier version has none. */
  get exists(): boolean {
    return this.#listed;
  }

  /** Whether the run has taken a step: before that, it has nothing that is worth keeping. */
  get began(): boolean {
    return this.#began;
  }

  /** Notes that the first step was taken. */
  begin(): void {
    if (this.#began) return;
    this.#began = true;
    this.#append({ began: true });
  }

  /** Starts the list if there is none. */
  open(): void {
    if (!this.#listed) writeFileSync(this.path, `${FIRST_LINE}\n`, { flag: 'wx' });
    this.#listed = true;
  }

  /** Starts the list again, after somebody removed the folder. */
  restart(): void {
    if (existsSync(this.path)) return;
    this.#files.clear();
    this.#folders.clear();
    this.#listed = false;
    this.open();
    if (this.#began) this.#append({ began: true });
  }

  /** Writes a file by `write` under another name, notes it, and gives it its name. Throws if the name is somebody else's. */
  put(name: string, write: (path: string) => void): void {
    const aside = join(this.folder, UNFINISHED);
    const [temporary, path] = [join(aside, name.replaceAll('/', '-')), join(this.folder, name)];
    mkdirSync(aside, { recursive: true });
    try {
      write(temporary);
      this.requireFree([name]);
      this.note(name, temporary);
      mkdirSync(dirname(path), { recursive: true });
      renameSync(temporary, path);
      this.#see(path);
    } finally {
      rmSync(aside, { recursive: true, force: true });
    }
  }

  /** Writes the files of a folder by `write` under another name, notes them, and gives the folder its name. */
  putFolder(name: string, write: (path: string) => void): void {
    const aside = join(this.folder, UNFINISHED);
    const [temporary, path] = [join(aside, 'folder'), join(this.folder, name)];
    mkdirSync(temporary, { recursive: true });
    try {
      write(temporary);
      this.requireFree([name]);
      for (const file of filesIn(temporary)) this.note(join(name, file), join(temporary, file));
      mkdirSync(dirname(path), { recursive: true });
      rmSync(path, { recursive: true, force: true }); // own, or empty
      renameSync(temporary, path);
    } finally {
      rmSync(aside, { recursive: true, force: true });
    }
  }

  /** Notes that the file `path` is about to take a name, or has it. */
  note(name: string, path = join(this.folder, name)): void {
    this.#append({ file: name, ...contentOfFile(path) });
  }

  /** Notes a file that grows: with what is there, unless somebody else wrote it. */
  noteGrowing(name: string): void {
    const path = join(this.folder, name);
    if (!existsSync(path))
      this.#append({ file: name, bytes: 0, sha256: createHash('sha256').digest('hex'), grows: true });
    else if (this.ownership(name) === 'own') this.#append({ file: name, ...contentOfFile(path), grows: true });
  }

  /** Notes that a file that grew is complete. */
  noteGrown(name: string): void {
    if (existsSync(join(this.folder, name)) && this.ownership(name) === 'own') this.note(name);
  }

  /** Notes a folder that is sealed with a manifest; `path`, where it is before it takes its name. */
  noteFolder(name: string, path = join(this.folder, name)): void {
    this.#append({ folder: name, sha256: contentOfFile(join(path, MANIFEST)).sha256 });
  }

  /** Notes that a sealed folder has its name, and is as its manifest says. */
  seeFolder(name: string): void {
    for (const file of filesIn(join(this.folder, name))) this.#see(join(this.folder, name, file));
  }

  /** Whose a file or folder is. A folder is `own` with nothing but own files inside, and `absent` without any. */
  ownership(name: string): Ownership {
    const path = join(this.folder, name);
    const status = lstatSync(path, { throwIfNoEntry: false });
    if (status === undefined) return 'absent';
    if (!status.isDirectory()) return this.#ownershipOfFile(name);
    const states = filesIn(path).map((file) => this.ownership(join(name, file)));
    return states.find((state) => state === 'changed' || state === 'foreign') ?? states[0] ?? 'absent';
  }

  /** The paths below a file or folder that are not this run's, or were changed since. */
  others(name: string): string[] {
    const path = join(this.folder, name);
    const status = lstatSync(path, { throwIfNoEntry: false });
    if (status === undefined) return [];
    const files = status.isDirectory() ? filesIn(path).map((file) => join(name, file)) : [name];
    return files.filter((file) => this.ownership(file) !== 'own');
  }

  /** All own files that are there, also changed ones, relative to the run folder. */
  get names(): string[] {
    const inFolders = [...this.#folders.keys()].flatMap((folder) =>
      existsSync(join(this.folder, folder)) ? filesIn(join(this.folder, folder)).map((file) => join(folder, file)) : [],
    );
    const all = new Set([...this.#files.keys(), ...inFolders]);
    return [...all].filter((name) => this.ownership(name) === 'own' || this.ownership(name) === 'changed').sort();
  }

  /** Whether all of these files are there, in the size that the run wrote. Their content is not read. */
  holds(names: readonly string[]): boolean {
    return names.every((name) => {
      const size = lstatSync(join(this.folder, name), { throwIfNoEntry: false })?.size;
      return this.#files.get(name)?.some(({ bytes }) => bytes === size) ?? false;
    });
  }

  /** Throws unless every name is free, or this run's own. */
  requireFree(names: readonly string[]): void {
    const taken = names.flatMap((name) => this.others(name));
    if (taken.length > 0)
      throw new Error(`${taken.join(', ')} in ${this.folder} was not written by this run, or changed since`);
  }

  /** Removes files of an earlier run, the folders that are empty then, and the list. */
  remove(names: readonly string[]): void {
    for (const name of names) {
      if (this.exists && this.ownership(name) !== 'own') continue; // changed since it was looked at
      rmSync(join(this.folder, name));
      if (name.includes(sep)) removeEmpty(dirname(join(this.folder, name)), join(this.folder, name.split(sep)[0]!));
    }
    if (this.#listed) rmSync(this.path, { force: true });
    this.#files.clear();
    this.#folders.clear();
    this.#began = false;
    this.#listed = false;
  }

  #ownershipOfFile(name: string): Ownership {
    const path = join(this.folder, name);
    const inside =
      relative(realpathSync(this.folder), realpathSync(dirname(path))) === dirname(name).replace(/^\.$/, '');
    if (!inside || !lstatSync(path).isFile()) return 'foreign'; // behind a link: another place
    if (this.#seen.get(path) === signatureOf(path)) return 'own';
    const contents = this.#contentsOf(name);
    if (contents === undefined) return 'foreign';
    const last = contents.at(-1)!;
    const own = last.grows
      ? isWhole(path, last.bytes) && same(contentOfFile(path, last.bytes), last)
      : contents.some(
          (content) => !content.grows && lstatSync(path).size === content.bytes && same(contentOfFile(path), content),
        );
    if (own) this.#see(path);
    return own ? 'own' : 'changed';
  }

  /** What a file may hold; undefined: the run wrote no such file. */
  #contentsOf(name: string): Entry[] | undefined {
    const listed = this.#files.get(name);
    if (listed !== undefined) return listed;
    const folder = [...this.#folders.keys()].find((own) => name.startsWith(`${own}${sep}`));
    if (folder === undefined) return undefined;
    const file = relative(folder, name);
    const manifest = join(this.folder, folder, MANIFEST);
    if (file === MANIFEST) {
      const bytes = lstatSync(manifest).size;
      return [...this.#folders.get(folder)!].map((sha256) => ({ bytes, sha256, grows: false }));
    }
    if (!existsSync(manifest) || this.ownership(join(folder, MANIFEST)) !== 'own') return undefined;
    const { files = [] } = JSON.parse(readFileSync(manifest, 'utf8')) as { files?: ({ name: string } & FileContent)[] };
    const found = files.filter(({ name: one }) => one === file).map((one) => ({ ...one, grows: false }));
    return found.length === 0 ? undefined : found;
  }

  #see(path: string): void {
    this.#seen.set(path, signatureOf(path));
  }

  #append(line: object): void {
    const text = JSON.stringify(line);
    appendFileSync(this.path, `${endsWithNewline(this.path) ? '' : '\n'}${text}\n`);
    this.#take(text);
  }

  #take(line: string): void {
    let value: Partial<{ file: string; folder: string; bytes: number; sha256: string; grows: boolean; began: boolean }>;
    try {
      value = (JSON.parse(line) ?? {}) as typeof value;
    } catch {
      return;
    }
    const { file, folder, bytes = 0, sha256 = '', grows = false } = value;
    if (value.began === true) this.#began = true;
    if (typeof file === 'string') this.#files.set(file, [...(this.#files.get(file) ?? []), { bytes, sha256, grows }]);
    if (typeof folder === 'string') this.#folders.set(folder, (this.#folders.get(folder) ?? new Set()).add(sha256));
  }
}

const same = (a: FileContent, b: FileContent): boolean => a.bytes === b.bytes && a.sha256 === b.sha256;

/** Changes with every write to the file, and with every other file of its name. */
function signatureOf(path: string): string {
  const { dev, ino, size, mtimeNs, ctimeNs } = lstatSync(path, { bigint: true });
  return [dev, ino, size, mtimeNs, ctimeNs].join();
}

/** Everything below a folder that is no folder, relative to it. */
function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)));
}

function endsWithNewline(path: string): boolean {
  if (!existsSync(path)) return true;
  const { size } = lstatSync(path);
  if (size === 0) return true;
  const last = Buffer.alloc(1);
  const file = openSync(path, 'r');
  try {
    readSync(file, last, 0, 1, size - 1);
  } finally {
    closeSync(file);
  }
  return last[0] === 10;
}
