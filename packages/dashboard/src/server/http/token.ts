/**
 * The token of the page: who has it may see and start runs. It lies in a file that only its user can read, so that a second terminal finds
 * the address. A page that was killed leaves the file, and the next one on the same port keeps the token, so that open browsers go on;
 * one that ends properly removes it.
 */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { chmodSync, lstatSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { cacheFolder, runningProcess } from '@minicpm-finetune/run';
import { z } from 'zod';

const TOKEN_FILE = z.object({
  token: z.string().regex(/^[\w-]{43}$/),
  pid: z.number().int().positive(),
  processStart: z.string().nullable(),
  url: z.string(),
});

export type TokenRecord = Readonly<z.infer<typeof TOKEN_FILE>>;

/** 32 random bytes. */
export function newToken(): string {
  return randomBytes(32).toString('base64url');
}

/** Compares without telling by its time where the texts differ. */
export function isSameToken(given: string, token: string): boolean {
  const hash = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(hash(given), hash(token));
}

function fileOf(port: number): string {
  return join(cacheFolder(), 'ui', `${port}.json`);
}

/** What the last page on this port left; null: nothing, or nothing that is this user's alone. */
export function readToken(port: number): TokenRecord | null {
  const path = fileOf(port);
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (!status?.isFile() || (status.mode & 0o077) !== 0 || status.uid !== process.getuid?.()) return null;
  try {
    return TOKEN_FILE.parse(JSON.parse(readFileSync(path, 'utf8')));
  } catch {
    return null;
  }
}

/** Whether the page that wrote it is still there. */
export function isServed({ pid, processStart }: TokenRecord): boolean {
  const found = runningProcess(pid);
  return found !== undefined && found.start === processStart;
}

export function writeToken(port: number, token: string, url: string): void {
  const folder = join(cacheFolder(), 'ui');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  chmodSync(folder, 0o700);
  const path = fileOf(port);
  rmSync(path, { force: true }); // so that the mode is that of a new file
  const { pid } = process;
  const record: TokenRecord = { token, pid, processStart: runningProcess(pid)?.start ?? null, url };
  writeFileSync(path, `${JSON.stringify(record)}\n`, { flag: 'wx', mode: 0o600 });
}

/** Removes the file, if it still is that of this process. */
export function removeToken(port: number): void {
  if (readToken(port)?.pid === process.pid) rmSync(fileOf(port), { force: true });
}
