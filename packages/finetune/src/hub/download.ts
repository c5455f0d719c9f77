/**
 * Downloads a hub model into its folder in the cache. Finds the commit and its files, fetches several at once, then
 * writes links and the ref. Commit and file list come from @huggingface/hub; its downloads neither resume nor check the
 * bytes, so transfer.ts transfers. Pickles are never fetched: opening them can run code.
 */
import { existsSync, statSync } from 'node:fs';
import { mkdir, rename, rm, statfs, symlink, writeFile } from 'node:fs/promises';
import { dirname, extname, join, relative } from 'node:path';
import { listFiles, modelInfo } from '@huggingface/hub';
import { formatBytes, shownNames, takeLock, UserError } from '@minicpm-finetune/run';
import { asTask, type Reporter } from '../report/reporter.js';
import { HubClient } from './client.js';
import { fetchBlob, partialFile, type RemoteFile } from './transfer.js';

export interface HubOptions {
  /** The flag that names the model, with dashes. */
  readonly flag: string;
  /** Shows the download, and says that there is one. */
  readonly reporter: Reporter;
  /** Hugging Face's cache unless given. */
  readonly cacheDir?: string | null;
  /** False where tokenizer and configuration are enough. */
  readonly weights?: boolean;
  /** The flag of the command that takes an adapter, for the error for an adapter's folder. */
  readonly adapterFlag?: '--adapter' | '--lora_weight_path';
  /** Milliseconds before each further try of a request that failed in passing. */
  readonly pauses?: readonly number[];
}

export interface DownloadOptions extends HubOptions {
  /** Branch, tag or commit; main unless given. */
  readonly revision?: string;
  /** Names of files with * and ? as wildcards, in place of those that a run needs. */
  readonly allow?: readonly string[];
}

const WEIGHTS = '.safetensors';
/** Of the files beside the weights: configuration, tokenizer, processor, templates and the model's code. */
const SIDE_FILES = new Set(['.json', '.py', '.jinja', '.model', '.txt', '.tiktoken']);
const PICKLES = new Set(['.bin', '.pt', '.pth', '.pkl', '.pickle', '.ckpt']);

/** Files fetched at once: one connection rarely fills the line. */
const CONNECTIONS = 4;

/** Downloads into `root`, the folder of `repo` in the cache, and returns the snapshot's folder. Throws as `downloadModel` does. */
export async function downloadInto(root: string, repo: string, options: DownloadOptions): Promise<string> {
  const { revision = 'main', flag, pauses, reporter } = options;
  const client = new HubClient({ repo, revision, flag }, pauses);
  const { commit, listing } = await lookUp(client);
  const files = select(listing, client, options);
  const blobs = new Map(files.map((file) => [join(root, 'blobs', file.hash.hex), file]));
  await mkdir(join(root, 'blobs'), { recursive: true });
  if ([...blobs].some(isMissing)) {
    using _ = takeLock(join(root, 'download.lock'), { what: root, flag });
    const missing = [...blobs].filter(isMissing); // another process may have fetched some
    if (missing.length > 0) await fetchAll(missing, client, reporter);
  }
  const snapshot = join(root, 'snapshots', commit);
  for (const { path, hash } of files) await link(join(root, 'blobs', hash.hex), join(snapshot, path), client);
  if (revision !== commit) await writeRef(join(root, 'refs', revision), commit);
  return snapshot;
}

/** The commit of the revision, and all its files. */
async function lookUp(client: HubClient): Promise<{ commit: string; listing: RemoteFile[] }> {
  const { endpoint: hubUrl, fetch } = client;
  const { repo: name, revision } = client.subject;
  try {
    const { sha: commit } = await modelInfo({ name, revision, hubUrl, fetch, additionalFields: ['sha'] });
    if (!isHex(commit)) throw new TypeError(`the commit ${commit}`);
    const repo = { type: 'model', name } as const;
    const listing: RemoteFile[] = [];
    for await (const { type, path, size, oid, lfs } of listFiles({
      repo,
      revision: commit,
      recursive: true,
      hubUrl,
      fetch,
    })) {
      if (typeof path !== 'string') throw new TypeError('no list of files');
      if (type !== 'file') continue;
      const hash = lfs ? ({ kind: 'sha256', hex: lfs.oid } as const) : ({ kind: 'git', hex: oid ?? '' } as const);
      if (!isHex(hash.hex)) throw new TypeError(`the hash ${hash.hex} of ${path}`);
      if (path.split(/[/\\]/).some((part) => ['', '.', '..'].includes(part))) throw new TypeError(`the path ${path}`);
      const url = `${hubUrl}/${name}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`;
      listing.push({ path, url, size: lfs?.size ?? size, hash });
    }
    return { commit, listing };
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    const message = `Expected the hub's list of the files of ${name} but ${hubUrl} answered something else: ${(cause as Error).message.slice(0, 200)}.`;
    throw client.error(message, {
      cure: 'Run the command again. If it stays so, check HF_ENDPOINT, and whether the network asks for a login.',
      cause,
    });
  }
}

/** They become names of files. */
const isHex = (text: string): boolean => /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(text);

/** The files to fetch, weights last. */
function select(listing: readonly RemoteFile[], client: HubClient, options: DownloadOptions): RemoteFile[] {
  const { repo, revision } = client.subject;
  const { allow, weights = true, reporter } = options;
  const patterns = allow?.map(wildcards);
  const isWeights = ({ path }: RemoteFile): boolean => extname(path) === WEIGHTS;
  const wanted = listing.filter((file) => {
    if (patterns) return patterns.some((pattern) => pattern.test(file.path));
    return !file.path.includes('/') && (isWeights(file) ? weights : SIDE_FILES.has(extname(file.path)));
  });
  const names = (files: readonly RemoteFile[]): string => shownNames(files.map(({ path }) => path));
  const pickles = (patterns ? wanted : listing).filter(({ path }) => PICKLES.has(extname(path)));
  if (patterns && pickles.length > 0) {
    reporter.notice(`left out, because opening pickles can run code: ${names(pickles)}`);
  }
  const files = wanted.filter((file) => !pickles.includes(file));
  if (patterns && files.length === 0) {
    const message = `Expected files of ${repo} (${revision}) for --allow but received ${shownNames(allow!)}, which none of them matches.`;
    throw client.error(message, { flag: '--allow', cure: `It has ${names(listing)}.` });
  }
  if (!patterns && weights && !files.some(isWeights)) {
    const others = pickles.length === 0 ? 'none' : `only pickles (${names(pickles)}), which can run code`;
    throw client.error(`Expected weights as safetensors in ${repo} (${revision}) but received ${others}.`, {
      cure: 'Choose a model or --revision with safetensors, or convert it with save_pretrained of transformers and give the folder.',
    });
  }
  return [...files.filter((file) => !isWeights(file)), ...files.filter(isWeights)];
}

/** As the shell reads them, but * goes over slashes, as in huggingface_hub. */
function wildcards(pattern: string): RegExp {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, '\\$&');
  return new RegExp(`^${escaped.replaceAll('*', '.*').replaceAll('?', '.')}$`, 's');
}

const isMissing = ([blob, { size }]: readonly [blob: string, file: RemoteFile]): boolean => sizeOf(blob) !== size;

/** The size of a file in bytes; null if it is not there. */
const sizeOf = (path: string): number | null => statSync(path, { throwIfNoEntry: false })?.size ?? null;

async function fetchAll(
  missing: readonly (readonly [blob: string, file: RemoteFile])[],
  client: HubClient,
  reporter: Reporter,
): Promise<void> {
  const rest = ([blob, { size }]: (typeof missing)[number]): number => {
    const there = sizeOf(partialFile(blob)) ?? 0;
    return there > size ? size : size - there;
  };
  const total = missing.reduce((sum, one) => sum + rest(one), 0);
  await requireRoom(total, dirname(missing[0]![0]), client);
  const task = { label: `Downloading ${client.subject.repo}`, total, unit: 'bytes' };
  await asTask(reporter, task, (update) => fetchQueue([...missing], client, update));
}

/** Fetches several files at once. The first failure stops all of them, and is thrown. */
async function fetchQueue(
  queue: (readonly [blob: string, file: RemoteFile])[],
  client: HubClient,
  update: (bytes: number, note: string) => void,
): Promise<void> {
  const count = queue.length;
  const stop = new AbortController();
  let [bytes, files] = [0, 0];
  const tell = (): void => update(Math.max(0, bytes), `${files}/${count} ${count === 1 ? 'file' : 'files'}`);
  const onBytes = (more: number): void => {
    bytes += more;
    tell();
  };
  const work = async (): Promise<void> => {
    for (let next = queue.shift(); next && !stop.signal.aborted; next = queue.shift()) {
      const [blob, file] = next;
      await fetchBlob(file, blob, { client, signal: stop.signal, onBytes });
      files++;
      tell();
    }
  };
  const stopAll = (error: unknown): void => stop.abort(error); // the first error is the reason
  await Promise.all(Array.from({ length: CONNECTIONS }, () => work().catch(stopAll)));
  stop.signal.throwIfAborted();
}

async function requireRoom(bytes: number, folder: string, client: HubClient): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bytes <= bavail * bsize) return;
  const message = `Expected room for ${formatBytes(bytes)} of ${client.subject.repo} but the disk has ${formatBytes(bavail * bsize)} left.`;
  throw client.error(message, {
    file: folder,
    cure: 'Free some space, or put the cache on another disk with HF_HOME or --cache_dir.',
  });
}

/** A link in the snapshot to a blob, relative so that the cache can be moved. */
async function link(blob: string, path: string, client: HubClient): Promise<void> {
  if (existsSync(path)) return;
  await mkdir(dirname(path), { recursive: true });
  await rm(path, { force: true }); // a link to a blob that was deleted
  try {
    await symlink(relative(dirname(path), blob), path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'EEXIST') return; // another process was first
    if (!['EPERM', 'ENOSYS', 'ENOTSUP'].includes((cause as NodeJS.ErrnoException).code ?? '')) throw cause;
    throw client.error(`Expected a disk with symbolic links for the cache but ${path} cannot be one.`, {
      file: path,
      cure: 'Put the cache on another disk with HF_HOME or --cache_dir.',
      cause,
    });
  }
}

async function writeRef(path: string, commit: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${process.pid}.tmp`;
  await writeFile(temporary, commit);
  await rename(temporary, path);
}
