/**
 * Several adapters over one base. The base's weights are in memory once: low-rank factors are put on its layers and taken
 * off again, those of one adapter or of several, each for its own rows; modules that an adapter has whole (`modules_to_save`, biases) change
 * places with the base's without a copy, those of one adapter at a time.
 *
 * Not here: what an adapter computes (lora.ts), its files (folder.ts). Adapters stacked on one another are merged (generation/load.ts).
 */
import { strict as assert } from 'node:assert';
import type { ModelConfig } from '@minicpm-finetune/processor';
import {
  type CompactTensor,
  keep,
  type Linear,
  noGrad,
  ops,
  type Parameter,
  scope,
  type Tensor,
} from '@minicpm-finetune/torch';
import type { MiniCPMV } from '../model/minicpm-v.js';
import { promptNotices } from './encoding.js';
import { loadAdapter, planAdapters } from './folder.js';
import { type LoraAdapter, loraAdapters } from './lora.js';
import type { BaseFingerprint } from './manifest.js';
import { type AdaptedRows, RowGroups } from './row-groups.js';
import { slicesOfAdapters } from './slices.js';
import { videosOfAdapters } from './videos.js';

type Value = Tensor | CompactTensor;

/** An adapter in memory. */
export interface HeldAdapter {
  readonly folder: string;
  /** How pictures are cut for it: as in its training, or as the base says. */
  readonly slice: ModelConfig['slice'];
  /** How it reads videos: as in its training; null: not at all. */
  readonly video: ModelConfig['video'];
  /** A sentence for each thing about it that a user should know. */
  readonly notices: readonly string[];
  /** Whether pictures look different to it than to the base: it changes the vision tower or the resampler. */
  readonly changesVision: boolean;
  /** What it has whole of the language model: the token table, something inside the decoder's layers, the last norm or the output layer. */
  readonly whole: { readonly table: boolean; readonly layers: boolean; readonly head: boolean };
  /** Bytes of its tensors. */
  readonly nbytes: number;
}

interface Parts {
  readonly layers: readonly (readonly [linear: Linear, adapter: LoraAdapter])[];
  /** The parameters that it has whole, and the values that do not work now: its own, or while it is active the base's. */
  readonly whole: Map<Parameter, Value>;
}

/** Rows of a batch that follow each other and belong to one adapter; null: to the base. */
export interface RowGroup {
  readonly adapter: HeldAdapter | null;
  readonly count: number;
}

export class AdapterSet {
  readonly #model: MiniCPMV;
  readonly #held = new Map<HeldAdapter, Parts>();
  #active: HeldAdapter | null = null;
  /** While rows of several adapters are computed: which, and the layers that have some of their low-rank factors. */
  #rows: { readonly groups: readonly RowGroup[]; readonly layers: readonly Linear[] } | null = null;

  /** @param model without adapters; it stays the caller's */
  constructor(model: MiniCPMV) {
    this.#model = model;
  }

  /** The adapter that works now; null: the base alone, or several for rows of their own. */
  get active(): HeldAdapter | null {
    return this.#active;
  }

  /**
   * Reads the adapter in a folder. The base works afterwards.
   *
   * @param fingerprint gives the base's, see `baseFingerprint`
   * @throws UserError as `loadAdapter` does; everything is as before then
   */
  load(folder: string, fingerprint?: BaseFingerprint): HeldAdapter {
    this.activate(null);
    const model = this.#model;
    const planned = [...planAdapters(model, { folder }).parameters];
    const whole = planned.filter(([name]) => !LOW_RANK.test(name)).map(([, parameter]) => parameter);
    const base = whole.map((parameter) => parameter.exchange(another(parameter)));
    let loaded: ReturnType<typeof loadAdapter>;
    try {
      loaded = loadAdapter(folder, model, { trainable: false, ...(fingerprint === undefined ? {} : { fingerprint }) });
    } catch (error) {
      for (const [i, parameter] of whole.entries()) parameter.exchange(base[i]!).dispose();
      throw error;
    }
    const parts: Parts = {
      layers: [...loraAdapters(model)].map(([, linear, adapter]) => [linear, adapter]),
      whole: new Map(whole.map((parameter, i) => [parameter, parameter.exchange(base[i]!)])),
    };
    for (const [linear] of parts.layers) linear.adapter = undefined;
    const trained = { adapter: folder, slices: loaded.slices, videos: loaded.videos };
    const { vision, connector } = model.parts;
    const slices = slicesOfAdapters([trained], model.config.slice);
    const videos = videosOfAdapters([trained], model.config.video);
    const held: HeldAdapter = {
      folder,
      slice: slices.slice,
      video: videos.video,
      notices: [...loaded.notices, ...slices.notices, ...videos.notices, ...promptNotices(folder, loaded.encoding)],
      changesVision: planned.some(([name]) => name.startsWith(`${vision}.`) || name.startsWith(`${connector}.`)),
      whole: this.#wholeParts(new Set(whole)),
      nbytes: bytesOf(parts),
    };
    this.#held.set(held, parts);
    return held;
  }

  #wholeParts(whole: ReadonlySet<Parameter>): HeldAdapter['whole'] {
    const { llm } = this.#model;
    const { embedTokens, layers, norm } = llm.model;
    const has = (parameters: Iterable<[string, Parameter]>): boolean =>
      [...parameters].some(([, one]) => whole.has(one));
    return {
      table: has(embedTokens.namedParameters()),
      layers: layers.some((layer) => has(layer.namedParameters())),
      head: has(norm.namedParameters()) || has(llm.headParameters()),
    };
  }

  /** Makes an adapter work, or (null) the base alone. Takes microseconds a layer; nothing is copied. */
  activate(adapter: HeldAdapter | null): void {
    if (adapter === this.#active && this.#rows === null) return;
    this.#takeOff();
    if (adapter !== null) this.#put(adapter, true);
    this.#active = adapter;
  }

  /**
   * Makes the low-rank factors of several adapters work on what has the rows of all `groups`, one group after the other. What they have whole
   * does not work: all rows see the base's. For generation, where a row depends on no other row.
   */
  activateRows(groups: readonly RowGroup[]): void {
    if (this.#rows !== null && sameGroups(groups, this.#rows.groups)) return;
    this.#takeOff();
    const rows = new Map<Linear, AdaptedRows[]>();
    let from = 0;
    for (const { adapter: held, count } of groups) {
      for (const [linear, adapter] of held === null ? [] : this.#parts(held).layers)
        rows.set(linear, [...(rows.get(linear) ?? []), { from, count, adapter }]);
      from += count;
    }
    for (const [linear, own] of rows) linear.adapter = new RowGroups(own);
    this.#rows = { groups, layers: [...rows.keys()] };
  }

  /** The base alone works then. */
  #takeOff(): void {
    for (const linear of this.#rows?.layers ?? []) linear.adapter = undefined;
    this.#rows = null;
    if (this.#active !== null) this.#put(this.#active, false);
    this.#active = null;
  }

  #put(held: HeldAdapter, on: boolean): void {
    const { layers, whole } = this.#parts(held);
    for (const [linear, adapter] of layers) linear.adapter = on ? adapter : undefined;
    for (const [parameter, value] of whole) whole.set(parameter, parameter.exchange(value));
  }

  #parts(held: HeldAdapter): Parts {
    const parts = this.#held.get(held);
    assert(parts !== undefined, `an adapter of this set, not ${held.folder}`);
    return parts;
  }

  /** Frees an adapter. The base works afterwards if it was among those that worked. */
  free(held: HeldAdapter): void {
    if (held === this.#active || this.#rows?.groups.some(({ adapter }) => adapter === held)) this.activate(null);
    const { layers, whole } = this.#parts(held);
    for (const [, adapter] of layers) adapter.dispose();
    for (const value of whole.values()) value.dispose();
    this.#held.delete(held);
  }

  /** Frees all adapters; the base works afterwards. */
  dispose(): void {
    for (const held of [...this.#held.keys()]) this.free(held);
  }
}

const sameGroups = (some: readonly RowGroup[], others: readonly RowGroup[]): boolean =>
  some.length === others.length &&
  some.every(({ adapter, count }, i) => adapter === others[i]!.adapter && count === others[i]!.count);

const LOW_RANK = /\.lora_(A\.weight|B\.weight|magnitude_vector)$/;

/** A second handle of a parameter's memory, which is freed for itself. */
const another = (parameter: Parameter): Tensor => noGrad(() => scope(() => keep(ops.detach(parameter.data))));

function bytesOf({ layers, whole }: Parts): number {
  const own = layers.flatMap(([, adapter]) => [...adapter.namedParameters()].map(([, { data }]) => data.nbytes));
  return [...own, ...[...whole.values()].map(({ nbytes }) => nbytes)].reduce((sum, bytes) => sum + bytes, 0);
}
