/**
 * A folder of stored tensors by key, kept across runs. One file per key, written under a temporary name and renamed;
 * the content follows its CRC-32. What is damaged, cut off or of another length is as good as absent. Several processes
 * may use one folder at once; all of them compute the same bytes for a key, so it does not matter whose file stays.
 *
 *     <root>/<space>/<2 digits of the key>/<key>
 *
 * The size of the root is bounded, by a look at it from time to time: files of other spaces are removed, the oldest first; then nothing more is
 * stored. (An order of use would be worse: in data that are read in full over and over, it would evict every file just before its use.)
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, sep } from 'node:path';
import { crc32 } from 'node:zlib';

const HEADER = 4;
/** Left free on the disk. */
const SPARE_BYTES = 1 << 30;
/** Temporary files older than this were left by a process that died, in milliseconds. */
const STALE = 3_600_000;

interface Found {
  readonly path: string;
  readonly bytes: number;
  readonly changed: number;
}

export interface VisionStoreOptions {
  readonly root: string;
  /** The namespace of the keys. */
  readonly space: string;
  /** Most bytes of the root. */
  readonly limit: number;
  /** Whether files of other spaces are removed to make room; true unless given. Of several processes one does it. */
  readonly evicts?: boolean;
  /** Called once if nothing more is stored. */
  readonly notice: (message: string) => void;
}

export class VisionStore {
  readonly folder: string;
  /** Bytes that may be written before the folder is looked at again; null: nothing more is stored. */
  #room: number | null = 0;

  readonly #options: VisionStoreOptions;

  constructor(options: VisionStoreOptions) {
    this.#options = options;
    this.folder = join(options.root, options.space);
  }

  /** The bytes of a key, if they are there whole: a copy. */
  get(key: string, length: number): Uint8Array | null {
    let content: Buffer;
    try {
      content = readFileSync(this.#path(key));
    } catch {
      return null; // not there, or not readable: to be computed
    }
    const bytes = content.subarray(HEADER);
    if (bytes.length !== length || content.readUInt32LE(0) !== crc32(bytes)) return null;
    return bytes;
  }

  /** Stores the bytes of a key if there is room. A failed write is reported once and is no error: the value is computed again. */
  put(key: string, bytes: Uint8Array): void {
    if (this.#room === null) return;
    const size = bytes.length + HEADER;
    try {
      if (size > this.#room) this.#room = this.#makeRoom(size);
      if (this.#room < size) {
        this.#end(`Expected more room for vision features in ${this.#options.root} but it is full`);
        return;
      }
      const path = this.#path(key);
      const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
      mkdirSync(dirname(path), { recursive: true });
      const header = Buffer.alloc(HEADER);
      header.writeUInt32LE(crc32(bytes));
      try {
        writeFileSync(temporary, Buffer.concat([header, bytes]));
        renameSync(temporary, path);
      } finally {
        rmSync(temporary, { force: true });
      }
      this.#room -= size;
    } catch (error) {
      this.#end(`Vision features cannot be stored in ${this.#options.root}: ${(error as Error).message}`);
    }
  }

  #end(reason: string): void {
    this.#room = null;
    this.#options.notice(`${reason}. No more are stored; those not there are computed.`);
  }

  #path(key: string): string {
    return join(this.folder, key.slice(0, 2), key);
  }

  /** Checks the root, removes stale and surplus files, and returns the bytes that may be written until the next check. */
  #makeRoom(wanted: number): number {
    const { root, limit, evicts = true } = this.#options;
    mkdirSync(root, { recursive: true });
    const files = filesBelow(root);
    const { bavail, bsize } = statfsSync(root);
    const used = files.reduce((sum, { bytes }) => sum + bytes, 0);
    let room = Math.min(limit - used, bavail * bsize - SPARE_BYTES);
    const share = Math.max(wanted, limit / 20); // others write, too: look again soon
    const others = evicts ? files.filter(({ path }) => !path.startsWith(this.folder + sep)) : [];
    for (const { path, bytes } of others.sort((a, b) => a.changed - b.changed)) {
      if (room >= share) break;
      rmSync(path, { force: true });
      room += bytes;
    }
    return Math.min(room, share);
  }
}

/** All files, without the temporary ones of dead processes, which are removed. Files may come and go meanwhile. */
function filesBelow(folder: string): Found[] {
  const found: Found[] = [];
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    const status = statSync(path, { throwIfNoEntry: false });
    if (status === undefined) continue;
    if (path.endsWith('.tmp') && Date.now() - status.mtimeMs > STALE) rmSync(path, { force: true });
    else found.push({ path, bytes: status.size, changed: status.mtimeMs });
  }
  return found;
}
