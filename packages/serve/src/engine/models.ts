/** The model names that are served. The base, and adapters on it, which come and go while the server runs. */
import { createHash } from 'node:crypto';
import { realpathSync, statSync } from 'node:fs';
import { basename, isAbsolute, join, sep } from 'node:path';
import {
  type AdapterSet,
  adapterIdentity,
  baseFingerprint,
  type HeldAdapter,
  type LoadedModel,
  PromptEncoder,
} from '@minicpm-finetune/minicpm-v';
import { nearestName, shown, UserError } from '@minicpm-finetune/run';
import { ApiError, fromUserError, invalid } from '../api/error.js';

/** A name and what answers under it. */
export interface ServedModel {
  readonly id: string;
  /** null: the base. */
  readonly adapter: HeldAdapter | null;
  readonly encoder: PromptEncoder;
  /** Known by content: the same one gives the same answers. */
  readonly fingerprint: string;
  /** Name of its folder. */
  readonly root: string;
  /** Seconds since 1970. */
  readonly created: number;
  /** Whether its name is taken away: it is freed with its last request. */
  retired: boolean;
}

export interface ModelCard {
  readonly id: string;
  readonly object: 'model';
  readonly created: number;
  readonly owned_by: string;
  readonly root: string;
  readonly parent: string | null;
  /** Tokens of its context. */
  readonly max_model_len: number;
}

export interface BaseOptions {
  /** Name that it is served under. */
  readonly id: string;
  readonly folder: string;
  /** `weights` of its `modelIdentity`. */
  readonly weights: string;
  /** Of this program, and what else decides numbers: the type and the device that are computed with. */
  readonly version: string;
  /** Folders below which adapters are loaded while the server runs; empty: none are. */
  readonly adapterRoots: readonly string[];
}

export class ServedModels {
  readonly base: ServedModel;
  readonly #loaded: LoadedModel;
  readonly #adapters: AdapterSet;
  readonly #options: BaseOptions;
  readonly #byName = new Map<string, ServedModel>();

  constructor(loaded: LoadedModel, adapters: AdapterSet, options: BaseOptions) {
    this.#loaded = loaded;
    this.#adapters = adapters;
    this.#options = options;
    this.base = this.#served(options.id, null, options.folder, '');
    this.#byName.set(options.id, this.base);
  }

  #served(id: string, adapter: HeldAdapter | null, folder: string, identity: string): ServedModel {
    const { config, template } = this.#loaded;
    const { version, weights } = this.#options;
    const hash = createHash('sha256').update([version, weights, identity].join('\n')).digest('hex');
    return {
      id,
      adapter,
      encoder: new PromptEncoder(config, template, adapter ?? config),
      fingerprint: `fp_${hash.slice(0, 16)}`,
      root: basename(folder),
      created: Math.floor(Date.now() / 1000),
      retired: false,
    };
  }

  /** Adapters that have a name. */
  get adapterCount(): number {
    return this.#byName.size - 1;
  }

  /** The model of a name; null: the base. @throws ApiError 404 */
  get(id: string | null): ServedModel {
    const found = id === null ? this.base : this.#byName.get(id);
    if (found === undefined) throw this.#unknown(id!);
    return found;
  }

  #unknown(id: string): ApiError {
    const near = nearestName(id, this.#byName.keys());
    const name = id.length > 80 ? `${id.slice(0, 80)}…` : id;
    const cure = near === undefined ? 'GET /v1/models lists those that are served.' : `Did you mean \`${near}\`?`;
    return new ApiError(404, `The model \`${name}\` does not exist. ${cure}`, {
      param: 'model',
      code: 'model_not_found',
    });
  }

  /** All names, the base first, as vLLM's model cards. */
  cards(): ModelCard[] {
    return [...this.#byName.values()].map((served) => this.card(served));
  }

  card({ id, adapter, root, created }: ServedModel): ModelCard {
    return {
      id,
      object: 'model',
      created,
      owned_by: 'minicpm-finetune',
      root,
      parent: adapter === null ? null : this.base.id,
      max_model_len: this.#loaded.config.llm.maxPositionEmbeddings,
    };
  }

  /**
   * Serves the adapter in a folder.
   *
   * @returns it, and what had the name before
   * @throws UserError for a folder that is none of an adapter for this base, and for a name that is taken
   */
  add(
    name: string,
    folder: string,
    replace = false,
  ): { readonly served: ServedModel; readonly before: ServedModel | null } {
    const before = this.#byName.get(name) ?? null;
    if (before !== null && (before === this.base || !replace)) {
      throw new UserError(`Expected a new name for the adapter but received ${shown(name)}, which is served already.`, {
        cure:
          before === this.base
            ? 'It is the name of the base: choose another one.'
            : 'Choose another one, or unload that adapter first.',
      });
    }
    const { weights, folder: base } = this.#options;
    const identity = adapterIdentity(folder, this.#loaded.config);
    const adapter = this.#adapters.load(folder, (format) => (format === 2 ? weights : baseFingerprint(base, format)));
    const served = this.#served(name, adapter, folder, identity);
    this.#byName.set(name, served);
    return { served, before };
  }

  /** Serves an adapter that a client names, which has to be below the root. @throws ApiError */
  load(name: string, path: string, replace: boolean): ReturnType<ServedModels['add']> {
    const folder = this.#belowRoot(path);
    try {
      return this.add(name, folder, replace);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      const taken = this.#byName.has(name) && (!replace || this.#byName.get(name) === this.base);
      throw fromUserError(error, taken ? 'lora_name' : 'lora_path', taken ? 'adapter_exists' : 'invalid_adapter');
    }
  }

  /** Takes a name away. Returns what had it. @throws ApiError */
  unload(name: string): ServedModel {
    const served = this.#byName.get(name);
    if (served === undefined) {
      const message = `Expected the name of an adapter that is loaded for lora_name but received ${shown(name)}.`;
      throw new ApiError(404, message, { param: 'lora_name', code: 'model_not_found' });
    }
    if (served === this.base)
      throw invalid('Expected the name of an adapter for lora_name but received that of the base.', 'lora_name');
    this.#byName.delete(name);
    return served;
  }

  #belowRoot(path: string): string {
    const { adapterRoots } = this.#options;
    if (adapterRoots.length === 0) {
      throw new ApiError(
        403,
        'This server loads no adapters while it runs. Its operator allows it with --adapter_root.',
        {
          param: 'lora_path',
          code: 'adapters_not_allowed',
        },
      );
    }
    for (const adapterRoot of adapterRoots) {
      try {
        const root = realpathSync(adapterRoot);
        const folder = realpathSync(isAbsolute(path) ? path : join(root, path));
        if (folder.startsWith(`${root}${sep}`) && statSync(folder).isDirectory()) return folder;
      } catch {
        // the same answer whether there is such a folder elsewhere or not
      }
    }
    throw invalid(
      `Expected a folder below the server's folders of adapters for lora_path but received ${shown(path)}.`,
      'lora_path',
      'adapter_not_found',
    );
  }
}
