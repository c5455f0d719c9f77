/**
 * Transfers one hub file into the blobs of the cache. It is `<hash>.incomplete` until it is complete and verified, then
 * renamed to `<hash>`. `downloadFileToCacheDir` of @huggingface/hub neither resumes a broken download nor verifies it,
 * so this part is our own. Bytes are written at their positions, so two processes that fetch the same file at once
 * write the same.
 */
import { createHash, type Hash } from 'node:crypto';
import { constants, existsSync } from 'node:fs';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { shownPath, type UserError } from '@minicpm-finetune/run';
import type { HubClient } from './client.js';

export interface RemoteFile {
  /** In the repository, with `/`. */
  readonly path: string;
  readonly url: string;
  /** In bytes. */
  readonly size: number;
  /** sha256 of the content for files in large file storage, else git's sha1 of a blob; both in hex. */
  readonly hash: { readonly kind: 'sha256' | 'git'; readonly hex: string };
}

export interface TransferOptions {
  readonly client: HubClient;
  readonly signal: AbortSignal;
  /** Called with bytes written; negative when earlier bytes turned out to be unusable. */
  readonly onBytes: (bytes: number) => void;
}

/** Bytes of a file that an earlier download left. */
export const partialFile = (blob: string): string => `${blob}.incomplete`;

/**
 * Fetches `file` into the path `blob`, resuming an earlier partial download.
 *
 * @throws UserError for a refusal, an answer that stays incomplete, another size or other content than the hub announced, a full disk
 */
export async function fetchBlob(file: RemoteFile, blob: string, options: TransferOptions): Promise<void> {
  const partial = partialFile(blob);
  const handle = await open(partial, constants.O_RDWR | constants.O_CREAT, 0o644);
  try {
    const download = new PartialDownload(file, handle, options);
    await download.takeUp();
    await download.complete();
    const received = download.digest();
    if (received !== file.hash.hex) throw wrongContent(file, received, options.client);
    await handle.datasync();
  } catch (error) {
    if (error instanceof Useless) {
      await rm(partial, { force: true });
      throw error.error;
    }
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC') throw diskFull(file, blob, error, options.client);
    throw error;
  } finally {
    await handle.close();
  }
  await rename(partial, blob).catch((error: unknown) => {
    if (!existsSync(blob)) throw error; // else another process was first
  });
}

/** An error after which the bytes received so far are worth nothing. */
class Useless extends Error {
  readonly error: UserError;

  constructor(error: UserError) {
    super(error.message);
    this.error = error;
  }
}

class PartialDownload {
  /** Bytes written and hashed. */
  #have = 0;
  #hash: Hash;

  readonly file: RemoteFile;
  readonly handle: FileHandle;
  readonly options: TransferOptions;

  constructor(file: RemoteFile, handle: FileHandle, options: TransferOptions) {
    this.file = file;
    this.handle = handle;
    this.options = options;
    this.#hash = this.#newHash();
  }

  /** Hashes the existing bytes. */
  async takeUp(): Promise<void> {
    const { size } = await this.handle.stat();
    if (size > this.file.size) return await this.handle.truncate(0);
    const buffer = Buffer.allocUnsafe(1 << 20);
    while (this.#have < size) {
      this.options.signal.throwIfAborted();
      const { bytesRead } = await this.handle.read(buffer, 0, buffer.length, this.#have);
      if (bytesRead === 0) return;
      this.#hash.update(buffer.subarray(0, bytesRead));
      this.#have += bytesRead;
    }
  }

  /** Requests the rest until it is complete or no more bytes come. */
  async complete(): Promise<void> {
    const { pauses } = this.options.client;
    for (let fruitless = 0; this.#have < this.file.size; ) {
      const before = this.#have;
      await this.#receive();
      if (this.#have === this.file.size) return;
      if (this.#have > before) fruitless = 0;
      const pause = pauses[fruitless++];
      if (pause === undefined) throw this.#truncated();
      await sleep(pause, undefined, { signal: this.options.signal });
    }
  }

  digest(): string {
    return this.#hash.digest('hex');
  }

  /** One request; returns when its answer ends or breaks off. */
  async #receive(): Promise<void> {
    const { client, signal, onBytes } = this.options;
    const headers: Record<string, string> = this.#have > 0 ? { range: `bytes=${this.#have}-` } : {};
    const response = await client.fetch(this.file.url, { headers, signal });
    if (this.#have > 0 && response.status !== 206) {
      onBytes(-this.#have); // the whole file comes again
      this.#have = 0;
      this.#hash = this.#newHash();
    }
    const announced = wholeSize(response);
    if (announced !== null && announced !== this.file.size) throw this.#wrongSize(`an answer of ${announced}`);
    const reader = response.body!.getReader();
    for (;;) {
      const chunk = await reader.read().catch((error: unknown) => {
        signal.throwIfAborted();
        if (error instanceof TypeError) return null; // fetch's error for a connection that broke
        throw error;
      });
      if (chunk === null || chunk.done) return;
      if (this.#have + chunk.value.length > this.file.size) {
        await reader.cancel();
        throw this.#wrongSize('more');
      }
      await this.#write(chunk.value);
      onBytes(chunk.value.length);
    }
  }

  async #write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.handle.write(bytes, done, bytes.length - done, this.#have + done);
      done += bytesWritten;
    }
    this.#hash.update(bytes);
    this.#have += bytes.length;
  }

  #newHash(): Hash {
    const { hash, size } = this.file;
    return hash.kind === 'sha256' ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`);
  }

  #truncated(): UserError {
    const { path, size } = this.file;
    return this.options.client.error(
      `Expected ${size} bytes for ${shownPath(path)} but the answers ended after ${this.#have} of them.`,
      { cure: 'Run the command again: it resumes there. A proxy that cuts long answers may have to be avoided.' },
    );
  }

  #wrongSize(received: string): Useless {
    const { path, size } = this.file;
    return new Useless(
      this.options.client.error(`Expected ${size} bytes for ${shownPath(path)} but received ${received}.`, {
        cure: 'Run the command again. If it stays so, the mirror in HF_ENDPOINT or a proxy delivers something else.',
      }),
    );
  }
}

/** The size of the whole file that an answer announces; null if it does not. */
function wholeSize({ status, headers }: Response): number | null {
  const text = status === 206 ? headers.get('content-range')?.split('/')[1] : headers.get('content-length');
  return text && /^\d+$/.test(text) ? Number(text) : null;
}

function wrongContent(file: RemoteFile, received: string, client: HubClient): Useless {
  const { path, hash } = file;
  const kind = hash.kind === 'git' ? 'git hash' : hash.kind;
  return new Useless(
    client.error(`Expected the ${kind} ${hash.hex} for ${shownPath(path)} but received ${received}.`, {
      cure: 'What was received is deleted: run the command again. If it stays so, the mirror in HF_ENDPOINT or a proxy changes files.',
    }),
  );
}

function diskFull(file: RemoteFile, blob: string, cause: unknown, client: HubClient): UserError {
  return client.error(`Expected room for ${file.path} (${file.size} bytes) but the disk is full.`, {
    file: blob,
    cure: 'Free some space and run the command again: it resumes there. HF_HOME or --cache_dir put the cache elsewhere.',
    cause,
  });
}
