/**
 * Finds a file under a path that differs a little. As people and tools make paths differ: white space at the ends, quotes, invisible characters, `file://`, backslashes, percent-encoding, upper and lower case,
 * Unicode normalisation. For "Did you mean …?", and for reading where the difference cannot mean another file.
 */
import { existsSync, readdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { isAbsolute, join, parse, resolve, sep } from 'node:path';
import { escapeUnseen, shown } from '../shown.js';

/** How a written path differs from that of a file. */
export type PathDifference =
  | 'white space at its start'
  | 'white space at its end'
  | 'a space at its end'
  | 'a line break at its end'
  | 'quotes'
  | 'characters that cannot be seen'
  | 'file://'
  | 'a home folder as ~'
  | 'backslashes'
  | 'percent-encoding'
  | 'upper and lower case'
  | 'Unicode normalisation'
  | 'a drive letter'
  | 'a folder of Windows';

export interface SimilarPath {
  /** As the user should write it. */
  readonly written: string;
  /** The file itself. */
  readonly path: string;
  readonly differences: readonly PathDifference[];
}

/** Differences that cannot mean another file: such a path is read. */
const SAME_FILE: ReadonlySet<PathDifference> = new Set(['backslashes', 'percent-encoding', 'Unicode normalisation']);

/** Whether a path may be read in place of the written one. */
export function isSameFile({ differences }: SimilarPath): boolean {
  return differences.every((one) => SAME_FILE.has(one));
}

type Step = (path: string) => { path: string; difference: PathDifference } | undefined;

const INVISIBLE = /[\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}]/gu;

/** Changes that are tried one after the other, each on the result of those before it. */
const STEPS: readonly Step[] = [
  (path) => changed(path, path.trimStart(), 'white space at its start'),
  (path) => changed(path, path.trimEnd(), whiteEnd(path)),
  (path) => changed(path, /^(["'`“”‘’])(.+)["'`“”‘’]$/su.exec(path)?.[2] ?? path, 'quotes'),
  (path) => changed(path, path.replace(INVISIBLE, ''), 'characters that cannot be seen'),
  (path) => changed(path, path.replace(/^file:(\/\/)?(localhost(?=\/))?/i, ''), 'file://'),
  (path) => changed(path, path.replace(/^~(?=\/|$)/, homedir()), 'a home folder as ~'),
  (path) => changed(path, /^[A-Za-z]:/.test(path) ? path : path.replaceAll('\\', '/'), 'backslashes'),
  (path) => changed(path, percentDecoded(path), 'percent-encoding'),
  (path) => changed(path, ofDrive(path), 'a drive letter'),
];

function whiteEnd(path: string): PathDifference {
  const end = path.slice(path.trimEnd().length);
  return end === ' '
    ? 'a space at its end'
    : /^[\r\n]+$/.test(end)
      ? 'a line break at its end'
      : 'white space at its end';
}

function changed(before: string, after: string, difference: PathDifference): ReturnType<Step> {
  return after === before || after === '' ? undefined : { path: after, difference };
}

function percentDecoded(path: string): string {
  try {
    return /%[0-9a-f]{2}/i.test(path) ? decodeURIComponent(path) : path;
  } catch {
    return path;
  }
}

/** `C:\data\a.png` as Linux under Windows has it. */
function ofDrive(path: string): string {
  const [, drive, rest] = /^([A-Za-z]):[\\/](.*)$/s.exec(path) ?? [];
  return drive === undefined ? path : `/mnt/${drive.toLowerCase()}/${rest!.replaceAll('\\', '/')}`;
}

/** What kind of Windows path a path is, for a message; undefined: none. */
export function windowsPath(path: string): string | undefined {
  const drive = /^\s*["']?([A-Za-z]:)[\\/]/.exec(path)?.[1];
  if (drive !== undefined) return `a Windows path with the drive letter ${drive}`;
  if (/^\s*["']?\\\\[^\\]/.test(path)) return 'a Windows path of a server (\\\\server\\share)';
  return undefined;
}

/** Folders whose names are kept, to look up many paths of one folder quickly. */
const KEPT_FOLDERS = 4;

/** Finds files under paths that differ. Keeps the names of a few folders. */
export class SimilarPaths {
  readonly #folders = new Map<string, Map<string, string>>();

  /** The file or folder that `written` probably means, from one of `folders` if it is relative; undefined: none. */
  find(written: string, folders: readonly string[] = ['.']): SimilarPath | undefined {
    if (written.length > 4096) return undefined;
    let path = written;
    const differences: PathDifference[] = [];
    for (const step of [undefined, ...STEPS]) {
      const next = step?.(path);
      if (step !== undefined && next === undefined) continue;
      if (next !== undefined) {
        path = next.path;
        differences.push(next.difference);
      }
      if (path.includes('\0')) continue;
      const found = this.#look(path, folders);
      if (found !== undefined) return { ...found, differences: [...differences, ...found.differences] };
    }
    return windowsPath(written) === undefined ? undefined : this.#findEnd(written, folders);
  }

  /** The file at the end of a path that starts in a folder of Windows. */
  #findEnd(written: string, folders: readonly string[]): SimilarPath | undefined {
    const parts = written.trim().split(/[\\/]+/);
    for (let from = 1; from < Math.min(parts.length, 20); from++) {
      const found = this.#look(parts.slice(from).join('/'), folders);
      if (found !== undefined) return { ...found, differences: ['a folder of Windows'] };
    }
    return undefined;
  }

  #look(path: string, folders: readonly string[]): SimilarPath | undefined {
    for (const folder of isAbsolute(path) ? [''] : folders) {
      const root = folder === '' ? parse(path).root : resolve(folder);
      const found = this.#walk(root, path);
      if (found !== undefined) {
        const written = folder === '' ? found.path : found.written;
        return { ...found, written };
      }
    }
    return undefined;
  }

  /** Goes down from `root`, at each level by the name itself, else by one that differs in case or normalisation. */
  #walk(root: string, path: string): SimilarPath | undefined {
    if (existsSync(join(root, path))) return { path: join(root, path), written: path, differences: [] };
    const differences = new Set<PathDifference>();
    const names: string[] = [];
    let folder = root;
    for (const part of path.split(sep).filter((one) => one !== '' && one !== '.')) {
      const name = part === '..' || existsSync(join(folder, part)) ? part : this.#nameIn(folder, part);
      if (name === undefined) return undefined;
      if (name !== part)
        differences.add(name.normalize() === part.normalize() ? 'Unicode normalisation' : 'upper and lower case');
      names.push(name);
      folder = join(folder, name);
    }
    return names.length === 0 ? undefined : { path: folder, written: names.join('/'), differences: [...differences] };
  }

  #nameIn(folder: string, name: string): string | undefined {
    let names = this.#folders.get(folder);
    if (names === undefined) {
      const all = namesOf(folder);
      names = new Map([
        ...all.map((one) => [alike(one), one] as const),
        ...all.map((one) => [one.normalize(), one] as const),
      ]);
      if (this.#folders.size >= KEPT_FOLDERS) this.#folders.delete(this.#folders.keys().next().value!);
      this.#folders.set(folder, names);
    }
    return names.get(name.normalize()) ?? names.get(alike(name));
  }
}

const alike = (name: string): string => `\0${name.normalize().toLowerCase()}`;

function namesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

/** `Did you mean images/a.png (the path ends in white space)?` */
export function didYouMean({ written, differences }: SimilarPath): string {
  return `Did you mean ${escapeUnseen(written).slice(0, 200)} (${differences.map((one) => SAYS[one]).join(', ')})?`;
}

const SAYS: Readonly<Record<PathDifference, string>> = {
  'white space at its start': 'the path starts with white space',
  'white space at its end': 'the path ends in white space',
  'a space at its end': 'the path ends in a space',
  'a line break at its end': 'the path ends in a line break',
  quotes: 'the path is in quotes',
  'characters that cannot be seen': 'the path has characters that cannot be seen',
  'file://': 'the path starts with file:',
  'a home folder as ~': 'only a shell knows ~',
  backslashes: 'the path has \\ for /',
  'percent-encoding': 'the path is percent-encoded',
  'upper and lower case': 'upper and lower case differ',
  'Unicode normalisation': 'the Unicode normalisation differs',
  'a drive letter': 'the path is a Windows path with a drive letter',
  'a folder of Windows': 'the path is a Windows path; this is its end',
};

/** The cure for a path under which there is nothing: the file that is probably meant, or what kind of path it is. */
export function pathCure(written: string, otherwise: string, folders?: readonly string[]): string {
  const similar = new SimilarPaths().find(written, folders);
  if (similar !== undefined && similar.differences.length > 0) return didYouMean(similar);
  const windows = windowsPath(written);
  if (windows !== undefined) return `${shown(written)} is ${windows}: write the path as this machine has it.`;
  return otherwise;
}
