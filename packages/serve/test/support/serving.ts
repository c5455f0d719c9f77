/** A server over a tiny model, for tests. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LoadModelOptions, loadModel, modelIdentity } from '@minicpm-finetune/minicpm-v';
import type { VersionName } from '@minicpm-finetune/processor';
import OpenAI from 'openai';
import { tinyCheckpoint, writePicture } from '../../../minicpm-v/test/support/tiny.js';
import { ChatEngine, ChatServer, type EngineOptions, type ServerOptions, samplingDefaults } from '../../src/index.js';

export interface Serving {
  readonly server: ChatServer;
  readonly engine: ChatEngine;
  readonly client: OpenAI;
  /** What an operator is told. */
  readonly notices: string[];
  /** What went wrong inside. */
  readonly errors: unknown[];
  close(): Promise<void>;
}

export interface ServingOptions {
  /** float32 when absent; int8: linear weights of the language model as 8-bit integers, the rest in bfloat16. */
  readonly dtype?: 'float32' | 'bfloat16' | 'int8';
  readonly engine?: Partial<EngineOptions>;
  readonly server?: Partial<ServerOptions>;
}

/** A folder that is removed after the tests, with a tiny checkpoint in it. */
export function workFolder(version: VersionName = 'minicpm-v-2_6'): { work: string; base: string; remove: () => void } {
  const work = mkdtempSync(join(tmpdir(), 'serve-'));
  return { work, base: tinyCheckpoint(work, version), remove: () => rmSync(work, { recursive: true }) };
}

export async function serving(base: string, options: ServingOptions = {}): Promise<Serving> {
  const notices: string[] = [];
  const errors: unknown[] = [];
  const common = { onError: (error: unknown) => errors.push(error) };
  const server = await ChatServer.listen({
    host: '127.0.0.1',
    port: 0,
    allowedHosts: [],
    corsOrigins: [],
    apiKey: null,
    ...common,
    ...options.server,
  });
  const { weights } = await modelIdentity({ model: base, adapters: [] });
  const engine = new ChatEngine(await loadModel({ model: base, ...typeOf(options) }), {
    id: 'tiny',
    folder: base,
    weights,
    version: '0',
    adapterRoots: [],
    adapters: [],
    maxNumSeqs: 4,
    maxQueue: 64,
    timeout: null,
    videoTimeout: 60,
    cacheBytes: 2 ** 24,
    pictures: { allowedHosts: [], mediaPath: null, maxBytes: 2 ** 20 },
    maxImages: 3,
    maxImagePixels: 1_000_000,
    maxTokens: null,
    defaults: samplingDefaults(base),
    notice: (message) => notices.push(message),
    ...common,
    ...options.engine,
  });
  server.serve(engine);
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: options.server?.apiKey ?? 'none', maxRetries: 0 });
  return { server, engine, client, notices, errors, close: () => server.close() };
}

const typeOf = ({ dtype = 'float32' }: ServingOptions): Pick<LoadModelOptions, 'dtype' | 'loadIn8Bit'> =>
  dtype === 'int8' ? { dtype: 'bfloat16', loadIn8Bit: true } : { dtype };

/** A picture of noise as a `data:` address. */
export async function noise(work: string, width: number, height: number, seed: number): Promise<string> {
  const { readFileSync } = await import('node:fs');
  const file = join(work, `${seed}.bmp`);
  writePicture(file, width, height, seed);
  return `data:image/bmp;base64,${readFileSync(file).toString('base64')}`;
}
