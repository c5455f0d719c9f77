/** The resolved options of `serve`. */
import { existsSync, statSync } from 'node:fs';
import { basename, resolve } from 'node:path';
import { expected, type FloatDType, pathCure, shown, UserError } from '@minicpm-finetune/run';
import type { GivenValues } from '../../config/flags.js';
import type { EngineOptions } from '../../engine/machine.js';
import { flagValue, requiredValue } from '../cli-command.js';
import { hostsOf } from '../shared/host-flag.js';
import { SERVE_FLAGS } from './flags.js';

export interface ServeOptions extends EngineOptions {
  /** Folder of a checkpoint. */
  readonly model: string;
  /** Name that the base is served under. */
  readonly name: string;
  readonly adapters: readonly { readonly name: string; readonly folder: string }[];
  /** Folders below which clients may load adapters. */
  readonly adapterRoots: readonly string[];
  /** null: the type of the weights. */
  readonly dtype: FloatDType | null;
  /** Keep linear weights of the language model as 8-bit integers. */
  readonly loadIn8Bit: boolean;
  readonly host: string;
  readonly port: number;
  readonly apiKey: string | null;
  readonly allowedHosts: readonly string[];
  readonly corsOrigins: readonly string[];
  readonly json: boolean;
  readonly exitWithParent: boolean;
  readonly maxNumSeqs: number;
  readonly maxQueue: number;
  readonly maxTokens: number;
  readonly timeout: number;
  readonly cacheBytes: number;
  readonly maxImages: number;
  readonly maxImagePixels: number;
  /** Seconds. */
  readonly videoTimeout: number;
  readonly allowedImageHosts: readonly string[];
  readonly mediaPath: string | null;
}

const LOOPBACK = ['127.0.0.1', '::1', 'localhost'];
export const KEY_VARIABLE = 'MINICPM_API_KEY';

/**
 * Options of given flags, but for the model's folder, which may have to be downloaded first.
 *
 * @throws UserError without a model, for an adapter without a name, a folder that is not there, and an open server without a key
 */
export function resolveServeOptions(
  given: GivenValues,
  env: Readonly<Record<string, string | undefined>>,
): (model: string) => ServeOptions {
  const value = <T>(name: string): T => flagValue<T>(given, SERVE_FLAGS.find((flag) => flag.name === name)!);
  const argument = requiredValue<string>(given, SERVE_FLAGS, 'model');
  const host = value<string>('host');
  const apiKey = keyOf(value<string | null>('api_key'), env[KEY_VARIABLE]);
  if (apiKey === null && !LOOPBACK.includes(host)) {
    throw new UserError(
      `Expected an API key for a server that other machines reach (--host ${host}) but received none.`,
      {
        flag: '--api_key',
        cure: `Set the variable ${KEY_VARIABLE} to a secret, which clients send as their API key.`,
      },
    );
  }
  // a model of the hub has its name there, not that of a folder of the cache
  const name =
    value<string | null>('served_model_name') ?? (existsSync(argument) ? basename(resolve(argument)) : argument);
  const adapters = value<readonly string[]>('adapter').map(namedFolder);
  requireNames([name, ...adapters.map((one) => one.name)]);
  const allowedHosts = hostsOf(value('allowed_host'), '--allowed_host');
  const allowedImageHosts = hostsOf(value('allow_image_host'), '--allow_image_host');
  for (const folder of value<readonly string[]>('adapter_root')) requireFolder(folder, '--adapter_root');
  requireFolder(value<string | null>('media_path'), '--media_path');
  for (const origin of value<readonly string[]>('cors')) requireOrigin(origin);
  return (model) => ({
    model,
    name,
    adapters,
    adapterRoots: value('adapter_root'),
    dtype: value('dtype'),
    loadIn8Bit: value('load_in_8bit'),
    device: value('device'),
    threads: value('threads'),
    host,
    port: value('port'),
    apiKey,
    allowedHosts: [...allowedHosts, ...(LOOPBACK.includes(host) ? [] : [host])],
    corsOrigins: value('cors'),
    json: value('json'),
    exitWithParent: value('exit_with_parent'),
    maxNumSeqs: value('max_num_seqs'),
    maxQueue: value('max_queue'),
    maxTokens: value('max_tokens'),
    timeout: value('timeout'),
    cacheBytes: value('cache_memory'),
    maxImages: value('max_images'),
    maxImagePixels: value('max_image_pixels'),
    videoTimeout: value('video_timeout'),
    allowedImageHosts,
    mediaPath: value('media_path'),
  });
}

function keyOf(flag: string | null, variable: string | undefined): string | null {
  const key = flag ?? variable ?? '';
  if (flag === '')
    throw expected('a key', '--api_key', flag, { flag: '--api_key', cure: 'Leave the flag out for none.' });
  if (key === '' || /^[\x21-\x7e]+$/.test(key)) return key === '' ? null : key;
  // the key itself is not shown
  throw new UserError('Expected a key of ASCII characters without white space but received another one.', {
    flag: flag === null ? KEY_VARIABLE : '--api_key',
    cure: 'No client can send any other in a header. Choose another one.',
  });
}

/** `invoices=runs/invoices` */
function namedFolder(text: string): { name: string; folder: string } {
  const [, name, folder] = /^([^\s=]{1,200})=(.+)$/s.exec(text) ?? [];
  if (name !== undefined && folder !== undefined) return { name, folder };
  throw new UserError(`Expected a name and a folder, name=dir, for --adapter but received ${shown(text)}.`, {
    flag: '--adapter',
    cure: `The name is what clients ask for as model: --adapter ${existsSync(text) ? `${basename(resolve(text))}=${text}` : 'invoices=runs/invoices'}.`,
  });
}

/** The base's first. */
function requireNames(names: readonly string[]): void {
  const twice = names.find((name, i) => names.indexOf(name) < i);
  if (twice === undefined) return;
  throw new UserError(`Expected a name of its own for each --adapter but received ${shown(twice)} twice.`, {
    flag: '--adapter',
    cure: twice === names[0] ? 'It is the name of the base: choose another one.' : 'Choose another one.',
  });
}

function requireFolder(path: string | null, flag: string): void {
  if (path === null || statSync(path, { throwIfNoEntry: false })?.isDirectory()) return;
  throw expected('a folder', flag, path, { flag, cure: pathCure(path, 'Check the path.') });
}

function requireOrigin(origin: string): void {
  if (URL.canParse(origin) && new URL(origin).origin === origin) return;
  throw expected('an origin such as https://example.com', '--cors', origin, {
    flag: '--cors',
    cure: 'It has a scheme, a host and perhaps a port, and nothing behind them.',
  });
}
