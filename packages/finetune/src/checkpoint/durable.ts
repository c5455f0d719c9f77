/**
 * Folders that are complete or absent. A folder is written under a hidden name, flushed, described by a manifest with
 * sizes and checksums, and renamed; before it is removed it is renamed away. Whenever the process or the machine stops,
 * a folder that has a checkpoint's name is complete. Not here: the contents of a checkpoint (checkpoint.ts), and the
 * names (packages/run).
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import {
  checkpointStep,
  contentOfFile,
  RUN_FILES,
  removedCheckpointName,
  requireSpace,
  UserError,
} from '@minicpm-finetune/run';
import { z } from 'zod';

const MANIFEST = z.object({
  step: z.int(),
  files: z.array(z.object({ name: z.string(), bytes: z.int(), sha256: z.string().length(64) })),
});

const ANOTHER = 'The checkpoint was changed or damaged: resume from another one.';
const RESUME_FLAG = '--resume_from_checkpoint';

/** What a manifest says of a file. */
export interface Content {
  readonly bytes: number;
  readonly sha256: string;
}

/** Brings a file's or folder's content to the disk. */
function flush(path: string): void {
  const file = openSync(path, 'r');
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** Names of all files in a folder and below it, in order. */
export function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .sort();
}

/**
 * Flushes every file of a folder, writes `manifest.json` as the last one, and returns the bytes of the others.
 *
 * @param known the content of files that were hashed before and have not changed since
 */
export function sealFolder(folder: string, step: number, known: ReadonlyMap<string, Content> = new Map()): number {
  const files = filesBelow(folder).map((name) => {
    const path = join(folder, name);
    flush(path);
    return { name, ...(known.get(name) ?? contentOfFile(path)) };
  });
  const manifest = join(folder, RUN_FILES.manifest);
  writeFileSync(manifest, `${JSON.stringify({ step, files }, null, 2)}\n`);
  flush(manifest);
  flush(folder);
  return files.reduce((sum, file) => sum + file.bytes, 0);
}

/** Renames a sealed folder to its final name, replacing an older checkpoint of that name. */
export function publishFolder(unfinished: string, final: string): void {
  if (existsSync(final)) removeFolder(final);
  renameSync(unfinished, final);
  flush(dirname(final));
}

/** Removes a checkpoint in such a way that no part of it is ever seen under its name. */
export function removeFolder(path: string): void {
  const step = checkpointStep(relative(dirname(path), path));
  const hidden = step === undefined ? path : join(dirname(path), removedCheckpointName(step));
  if (hidden !== path) {
    rmSync(hidden, { recursive: true, force: true });
    renameSync(path, hidden);
  }
  rmSync(hidden, { recursive: true, force: true });
}

/** Without one of these, nothing loads a folder. */
const CONFIGS = new Set(['config.json', 'adapter_config.json']);

/**
 * Moves the files of a flushed folder into another one, one by one, and removes the empty folder. The configuration comes last, and an
 * earlier one goes first: what is half moved cannot be loaded.
 */
export function moveFiles(from: string, to: string): void {
  const names = filesBelow(from).sort((a, b) => Number(CONFIGS.has(a)) - Number(CONFIGS.has(b)));
  for (const name of names) flush(join(from, name));
  for (const name of names) if (CONFIGS.has(name)) rmSync(join(to, name), { force: true });
  for (const name of names) {
    mkdirSync(dirname(join(to, name)), { recursive: true });
    renameSync(join(from, name), join(to, name));
  }
  rmSync(from, { recursive: true });
  flush(to);
}

/**
 * Checks a checkpoint against its manifest: every file there, with its size and checksum, `required` ones among them.
 *
 * @throws UserError naming the file.
 */
export function verifyFolder(folder: string, required: readonly string[]): void {
  const file = join(folder, RUN_FILES.manifest);
  if (!existsSync(file)) {
    throw new UserError(`Expected a complete checkpoint in ${folder} but received one without ${RUN_FILES.manifest}.`, {
      file: folder,
      flag: RESUME_FLAG,
      cure: 'Name another checkpoint-<step> folder, or `latest` for the newest complete one.',
    });
  }
  const { files } = readManifest(file);
  for (const name of required) {
    if (files.some((listed) => listed.name === name)) continue;
    throw new UserError(`Expected ${name} in the manifest of a checkpoint but it is not listed.`, {
      file,
      flag: RESUME_FLAG,
      cure: ANOTHER,
    });
  }
  for (const { name, bytes, sha256: expected } of files) {
    const path = join(folder, name);
    const received = existsSync(path) ? statSync(path).size : undefined;
    if (received === bytes && contentOfFile(path).sha256 === expected) continue;
    const found = received === bytes ? 'another content' : `${received ?? 'no'} bytes`;
    throw new UserError(`Expected ${bytes} bytes with the manifest's checksum for ${name} but received ${found}.`, {
      file: path,
      flag: RESUME_FLAG,
      cure: ANOTHER,
    });
  }
}

/** Whether a checkpoint is as its manifest says, and holds nothing else. */
export function isIntact(folder: string): boolean {
  try {
    verifyFolder(folder, []);
  } catch (error) {
    if (error instanceof UserError) return false;
    throw error;
  }
  const { files } = readManifest(join(folder, RUN_FILES.manifest));
  const listed = new Set([RUN_FILES.manifest, ...files.map(({ name }) => name)]);
  return filesBelow(folder).every((name) => listed.has(name));
}

export function readManifest(file: string): z.infer<typeof MANIFEST> {
  try {
    return MANIFEST.parse(JSON.parse(readFileSync(file, 'utf8')));
  } catch (cause) {
    throw new UserError(`Expected a list of files with checksums for ${RUN_FILES.manifest} but it cannot be read.`, {
      file,
      flag: RESUME_FLAG,
      cure: ANOTHER,
      cause,
    });
  }
}

/** Refuses to start what the disk cannot hold. Sizes in bytes. */
export function checkSpace(
  folder: string,
  needed: number,
  what: string,
  cure = 'Free some space, lower --save_total_limit, or use --save_only_model true.',
): void {
  requireSpace(folder, needed, { what, cure });
}
