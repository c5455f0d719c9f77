/**
 * Model arguments: a folder, a cached or a hub model. The cache is Hugging Face's own, shared with Python:
 * models--org--name/{blobs,refs,snapshots} under HF_HUB_CACHE, else HF_HOME/hub. A branch or tag is noted in refs only
 * when all requested files are there. The downloading is in download.ts.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { getHFHubCachePath, getRepoFolderName } from '@huggingface/hub';
import { requireCheckpoint } from '@minicpm-finetune/processor';
import { didYouMean, pathCure, readJson, SimilarPaths, shown, UserError } from '@minicpm-finetune/run';
import { type DownloadOptions, downloadInto, type HubOptions } from './download.js';

/**
 * The folder of a model argument, downloaded if it is a model of the hub that is not in the cache. A model in the cache needs no network.
 *
 * @throws UserError for what is neither a folder nor the id of a model, and as `downloadModel` does
 */
export async function resolveModel(argument: string, options: HubOptions): Promise<string> {
  if (existsSync(argument)) {
    requireCheckpoint(argument, options); // of a file, it says which one it is
    return argument;
  }
  requireRepoId(argument, options.flag);
  const cached = cachedSnapshot(repoFolder(argument, options.cacheDir), options.weights ?? true);
  if (cached !== null) return cached;
  const similar = new SimilarPaths().find(argument);
  const meant =
    similar === undefined || similar.differences.length === 0 ? '' : ` (${didYouMean(similar).replace('Did', 'did')})`;
  options.reporter.notice(
    `there is no folder ${argument}${meant}, so the model of that name is downloaded from the hub`,
  );
  return await downloadModel(argument, options);
}

/** The folder of a model argument, or its snapshot in the cache, without weights unless these are asked for; null: it is not on this machine. */
export function localModel(argument: string, cacheDir: string | null, weights = false): string | null {
  if (existsSync(join(argument, 'config.json'))) return argument;
  if (existsSync(argument) || !REPO_ID.test(argument)) return null;
  return cachedSnapshot(repoFolder(argument, cacheDir), weights);
}

/**
 * Downloads what a run needs of a model of the hub (not what is there already), and returns its snapshot folder.
 *
 * @throws UserError for an id, revision or file that does not exist, missing access, an answer that is not what the hub announced,
 *   no network, too little room
 */
export async function downloadModel(repo: string, options: DownloadOptions): Promise<string> {
  requireRepoId(repo, options.flag);
  return await downloadInto(repoFolder(repo, options.cacheDir), repo, options);
}

const repoFolder = (repo: string, cacheDir: string | null | undefined): string =>
  join(cacheDir ?? getHFHubCachePath(), getRepoFolderName({ type: 'model', name: repo }));

const REPO_ID = /^\w[\w.-]*\/\w[\w.-]*$/;

/** Refuses what is neither a folder nor can be the id of a model. */
export function requireRepoId(argument: string, flag: string): void {
  if (REPO_ID.test(argument) && !/--|\.\./.test(argument)) return;
  if (existsSync(argument)) requireCheckpoint(argument, { flag }); // it says which file it is
  throw new UserError(
    `Expected a folder with config.json and weights, or the id of a model of the hub, but received ${shown(argument)}, which is no folder.`,
    { flag, cure: pathCure(argument, 'Check the path, or give an id such as openbmb/MiniCPM-V-2_6.') },
  );
}

/** The snapshot of main in the cache if all is there that a run needs; null if not. */
function cachedSnapshot(root: string, weights: boolean): string | null {
  const ref = join(root, 'refs', 'main');
  if (!existsSync(ref)) return null;
  const snapshot = join(root, 'snapshots', readFileSync(ref, 'utf8').trim());
  const has = (name: string): boolean => existsSync(join(snapshot, name)); // of a link: what it points to
  if (!['config.json', 'tokenizer.json', 'tokenizer_config.json'].every(has)) return null;
  if (!weights || has('model.safetensors')) return snapshot;
  const index = 'model.safetensors.index.json';
  if (!has(index)) return null;
  const { weight_map: shards } = (readJson(join(snapshot, index), index) ?? {}) as { weight_map?: unknown };
  const names = typeof shards === 'object' && shards !== null ? Object.values(shards) : [];
  return names.every((name) => typeof name === 'string' && has(name)) ? snapshot : null;
}
