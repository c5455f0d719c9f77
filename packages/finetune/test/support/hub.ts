/** What the tests about the hub share: a server for each test, a cache that is empty, and how errors are read. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { afterEach, beforeEach, expect, vi } from 'vitest';
import { downloadModel, resolveModel } from '../../src/hub/hub.js';
import { Progress } from '../../src/report/progress.js';
import { HubServer, REPO } from './hub-server.js';

export const WEIGHTS = Buffer.from(Uint8Array.from({ length: 300_000 }, (_, i) => (i * i) >> 7));
export const CONFIG = Buffer.from('{"architectures": ["MiniCPMV"]}');

export let hub: HubServer;
/** HF_HOME. */
export let home: string;
/** What progress printed. */
export let said: string;

/** Starts a server before each test of the file. */
export function useHub(): void {
  beforeEach(async () => {
    said = '';
    home = mkdtempSync(join(tmpdir(), 'hub-'));
    hub = new HubServer();
    for (const name of ['HF_TOKEN', 'HF_TOKEN_PATH', 'HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_HUB_OFFLINE'])
      vi.stubEnv(name, undefined);
    vi.stubEnv('HF_HOME', home);
    vi.stubEnv('HF_ENDPOINT', `${await hub.start()}/`);
    hub.files.set('model.safetensors', { content: WEIGHTS, lfs: true });
    hub.files.set('config.json', { content: CONFIG });
    for (const name of [
      'tokenizer.json',
      'tokenizer_config.json',
      'modeling_minicpmv.py',
      'README.md',
      'assets/a.json',
    ])
      hub.files.set(name, { content: Buffer.from(`content of ${name}`) });
    hub.files.set('training_args.bin', { content: Buffer.from('a pickle'), lfs: true });
  });
  afterEach(async () => {
    vi.unstubAllEnvs();
    await hub.stop();
    rmSync(home, { recursive: true });
  });
}

/** The model's folder in the cache. */
export const root = (): string => join(home, 'hub', 'models--openbmb--Tiny-V');
export const blob = (hash: string): string => join(root(), 'blobs', hash);

const reporter = new Progress({
  mode: 'plain',
  stream: {
    write: (text: string) => {
      said += text;
    },
  },
});
export const options = { flag: '--model', reporter, pauses: [1, 1] };
export const download = (more: object = {}): Promise<string> => downloadModel(REPO, { ...options, ...more });
export const resolve = (argument: string, more: object = {}): Promise<string> =>
  resolveModel(argument, { ...options, ...more });

/** The text of the UserError a promise ends with. */
export async function refusal(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => new Error('it succeeded'),
    (reason: unknown) => reason,
  );
  if (!(error instanceof UserError)) throw error;
  expect(error.cure).toBeDefined();
  return error.format();
}

export function expectWeights(folder: string): void {
  expect(readFileSync(join(folder, 'model.safetensors')).equals(WEIGHTS)).toBe(true);
}
