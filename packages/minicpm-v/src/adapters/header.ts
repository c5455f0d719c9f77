/** The names in an adapter's file, from its header alone. No import of torch. */
import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { PREFIX, plainName } from './names.js';
import { WEIGHTS_FILE } from './side-files.js';

/** Names of the modules that have a low-rank part in the file, as the model has them; null: the header cannot be read. */
export function adapterTargets(folder: string): string[] | null {
  const names = headerNames(join(folder, WEIGHTS_FILE));
  if (names === null) return null;
  const targets = names.flatMap((name) => {
    const plain = plainName(name);
    return plain.endsWith('.lora_A.weight') ? [plain.slice(PREFIX.length, -'.lora_A.weight'.length)] : [];
  });
  return [...new Set(targets)];
}

/** Largest header that is read. */
const MOST_BYTES = 100_000_000;

function headerNames(file: string): string[] | null {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(file, 'r');
    const length = Buffer.alloc(8);
    readSync(descriptor, length, 0, 8, 0);
    const size = Number(length.readBigUInt64LE());
    if (size > MOST_BYTES) return null;
    const text = Buffer.alloc(size);
    readSync(descriptor, text, 0, size, 8);
    const header: unknown = JSON.parse(text.toString('utf8'));
    return typeof header === 'object' && header !== null ? Object.keys(header) : null;
  } catch {
    return null; // loading the file says what is wrong with it
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}
