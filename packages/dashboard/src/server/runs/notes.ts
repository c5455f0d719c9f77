/** `ui.json`: what a person wrote about a run on the page. The page's alone, never read by the trainer. */
import { join } from 'node:path';
import { z } from 'zod';
import type { UserNotes } from '../../shared/api.js';
import { writeWhole } from '../process/launch-record.js';
import { jsonOfFile } from './small-file.js';

export const NOTES_FILE = 'ui.json';

const TAG = z.string().trim().min(1).max(64);
const FIELDS = {
  tags: z.array(TAG).max(32),
  star: z.boolean(),
  note: z.string().max(20_000),
  archived: z.boolean(),
};

/** What a request may change. */
export const NOTES_CHANGE = z.strictObject(FIELDS).partial();

export const NO_NOTES: UserNotes = { tags: [], star: false, note: '', archived: false };

/** A file that cannot be read has no notes. */
export function readNotes(folder: string): UserNotes {
  const values = readObject(folder);
  const notes: Record<string, unknown> = { ...NO_NOTES };
  for (const [name, schema] of Object.entries(FIELDS)) {
    const value = schema.safeParse(values[name]);
    if (value.success) notes[name] = value.data;
  }
  return notes as unknown as UserNotes;
}

/** Changes some fields; what else the file holds stays. */
export function writeNotes(folder: string, change: z.infer<typeof NOTES_CHANGE>): void {
  const notes = { ...readObject(folder), ...change };
  writeWhole(join(folder, NOTES_FILE), `${JSON.stringify(notes, null, 2)}\n`);
}

function readObject(folder: string): Record<string, unknown> {
  try {
    const value = jsonOfFile(join(folder, NOTES_FILE));
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : {};
  } catch {
    return {};
  }
}
