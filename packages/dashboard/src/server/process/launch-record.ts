/**
 * `ui_launch.json`: how the page started a run last. With the words of its command line, its process, or that it waits.
 * It is all that the page remembers, so that a run is shown truly whoever was ended in between.
 */
import { renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { jsonOfFile } from '../runs/small-file.js';

export const LAUNCH_FILE = 'ui_launch.json';

const LAUNCH = z.object({
  /** When, ISO 8601. */
  time: z.string(),
  /** The words after `minicpm-finetune`. */
  words: z.array(z.string()),
  cwd: z.string(),
  /** Null: it waits until no other run runs. */
  pid: z.number().int().positive().nullable(),
  /** As in `run_start`. */
  processStart: z.string().nullable(),
  hostname: z.string(),
});

export type Launch = Readonly<z.infer<typeof LAUNCH>>;

/** Null: there is none, or none that can be read. */
export function readLaunch(folder: string): Launch | null {
  try {
    return LAUNCH.parse(jsonOfFile(join(folder, LAUNCH_FILE)));
  } catch {
    return null;
  }
}

export function writeLaunch(folder: string, launch: Launch): void {
  writeWhole(join(folder, LAUNCH_FILE), `${JSON.stringify(launch, null, 2)}\n`);
}

/** Writes a small file so that a reader sees the old or the new one, never a part. */
export function writeWhole(path: string, text: string): void {
  const aside = `${path}.${process.pid}.tmp`;
  writeFileSync(aside, text);
  renameSync(aside, path);
}
