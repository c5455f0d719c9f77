/**
 * Flags of a training that goes on with an adapter. The adapter decides what it is: rank, alpha, targets, saved modules, rsLoRA,
 * DoRA, biases. Its values take the place of defaults; a flag that was given and says something else is refused, before any
 * model is loaded.
 *
 * Not here: whether the adapter fits the model (train/plan.ts).
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import {
  type AdapterConfig,
  adapterTargets,
  describeSlices,
  endsWithName,
  layerIndex,
  loraScale,
  readAdapterConfig,
  readManifest,
  targetMatcher,
} from '@minicpm-finetune/minicpm-v/adapter-files';
import { moduleName, partOf, VERSIONS } from '@minicpm-finetune/processor';
import { latestCheckpoint, nameAt, placeOf, shown, UserError } from '@minicpm-finetune/run';
import type { Given, GivenValues } from './flags.js';

/** What an adapter says about a configuration. */
export interface FromAdapter {
  /** Values for flags that were not given. */
  readonly values: ReadonlyMap<string, Given>;
  readonly notices: readonly string[];
}

const NOTHING: FromAdapter = { values: new Map(), notices: [] };

/**
 * The values of the adapter that the training starts from, if there is one: the checkpoint that it resumes from, or `--lora_weight_path`.
 *
 * @throws UserError for an adapter that cannot be read, and for a given flag that contradicts it
 */
export function fromAdapter(given: GivenValues): FromAdapter {
  if (given.get('use_lora')?.value !== true) return NOTHING;
  const continued = textOf(given, 'lora_weight_path');
  const resumed = resumedFolder(given);
  const folder = resumed ?? continued;
  if (folder === null) return NOTHING;
  const config = readAt(folder, resumed === null ? '--lora_weight_path' : '--resume_from_checkpoint');
  // a resumed run has what its configuration said of the vision tower; the list of saved modules may say otherwise
  const adapter = new AdapterValues(folder, config, given, continued !== null);
  adapter.settle();
  // without --resume_anyway, resuming compares all flags with those of the checkpoint
  if (resumed === null || given.get('resume_anyway')?.value === true) adapter.requireNoContradiction();
  if (continued !== null) {
    adapter.settleSlices();
    adapter.settleVideos();
    adapter.settleEncoding();
  }
  if (resumed === null) adapter.notices.unshift(describe(folder, config));
  return adapter;
}

function textOf(given: GivenValues, name: string): string | null {
  const value = given.get(name)?.value;
  return typeof value === 'string' && value !== '' ? value : null;
}

/** The checkpoint that a run resumes from, if it is there and has an adapter. What is wrong with one that is not, resuming says. */
function resumedFolder(given: GivenValues): string | null {
  const asked = textOf(given, 'resume_from_checkpoint');
  const folder = asked === 'latest' ? latestCheckpoint(textOf(given, 'output_dir') ?? '')?.path : asked;
  return folder != null && existsSync(join(folder, 'adapter_config.json')) ? folder : null;
}

function readAt(folder: string, flag: string): AdapterConfig {
  try {
    return readAdapterConfig(folder);
  } catch (error) {
    throw error instanceof UserError ? error.at({ flag }) : error;
  }
}

/** What the adapter keeps, in one line with its numbers. */
function describe(folder: string, { lora }: AdapterConfig): string {
  const { r, alpha, useRslora, useDora, bias, modulesToSave, targetModules, rankPattern, alphaPattern } = lora;
  const others = Object.keys({ ...rankPattern, ...alphaPattern }).length;
  const scale = `${alpha} / ${useRslora ? `sqrt(${r})` : r} = ${Number(loraScale(lora).toPrecision(6))}`;
  const targets = typeof targetModules === 'string' ? targetModules : some(targetModules);
  const parts = [
    `r ${r}`,
    `alpha ${alpha}`,
    `scale ${scale}${useRslora ? ' (rsLoRA)' : ''}`,
    ...(others > 0 ? [`other values for ${others} ${others === 1 ? 'pattern' : 'patterns'}`] : []),
    ...(useDora ? ['DoRA'] : []),
    `targets ${targets}`,
    modulesToSave.length === 0 ? 'nothing saved whole' : `saved whole ${modulesToSave.join(' ')}`,
    `bias ${bias}`,
  ];
  return `the adapter ${folder} keeps what it has: ${parts.join(', ')}.`;
}

const MOST_NAMES = 6;
const some = (names: readonly string[]): string =>
  names.length <= MOST_NAMES
    ? names.join(' ')
    : `${names.slice(0, MOST_NAMES).join(' ')} and ${names.length - MOST_NAMES} more`;

class AdapterValues implements FromAdapter {
  readonly values = new Map<string, Given>();
  readonly notices: string[] = [];
  readonly #folder: string;
  readonly #config: AdapterConfig;
  readonly #given: GivenValues;
  readonly #contradictions: { readonly name: string; readonly entry: Given; readonly text: string }[] = [];

  readonly #decidesVision: boolean;

  constructor(folder: string, config: AdapterConfig, given: GivenValues, decidesVision: boolean) {
    this.#decidesVision = decidesVision;
    this.#folder = folder;
    this.#config = config;
    this.#given = given;
  }

  settle(): void {
    const { lora } = this.#config;
    this.#keep('lora_r', lora.r);
    this.#keep('lora_alpha', lora.alpha);
    this.#keep('use_rslora', lora.useRslora);
    this.#keep('use_dora', lora.useDora);
    this.#keep('lora_bias', lora.bias);
    this.#keepTargets();
    this.#keepLayers();
    this.#keepSaved();
    this.#free('lora_dropout', lora.dropout, (was) => `the adapter was trained with ${was}; the given one is used.`);
  }

  /** The slices of the adapter's training are the default; others are allowed, and said. */
  settleSlices(): void {
    const slices = readManifest(this.#folder)?.slices;
    if (slices === undefined) return;
    const trained = describeSlices({
      maxSliceNums: slices.max_slice_nums,
      scaleResolution: slices.scale_resolution,
    });
    const say = (): string => `the adapter was trained with ${trained}; the given value is used.`;
    this.#free('max_slice_nums', slices.max_slice_nums, say);
    this.#free('scale_resolution', slices.scale_resolution, say);
  }

  /** The same of how videos were read. */
  settleVideos(): void {
    const say = (was: string): string => `the adapter was trained with ${was}; the given value is used.`;
    for (const [name, value] of Object.entries(readManifest(this.#folder)?.videos ?? {}))
      this.#free(`video_${name}`, value, say);
  }

  /** The same of how records were encoded. */
  settleEncoding(): void {
    const encoding = readManifest(this.#folder)?.encoding;
    if (encoding === undefined) return;
    const say = (was: string): string => `the adapter was trained with ${was}; the given value is used.`;
    const { compat, thinking } = encoding;
    if (compat === 'official' && textOf(this.#given, 'preference') !== null)
      this.notices.push(
        'the adapter was trained with --compat official, which knows no pairs: records are encoded as at inference.',
      );
    else this.#free('compat', compat, say);
    // official records know no think blocks; a flag that an adapter does not need is not settled
    if (thinking !== 'inference' || this.#given.has('thinking')) this.#free('thinking', thinking, say);
  }

  #keep(name: string, value: unknown): void {
    const entry = this.#given.get(name);
    if (entry === undefined) this.#settled(name, value);
    else if (entry.value !== value) this.#contradict(name, entry, typeof value === 'string' ? value : shown(value));
  }

  /** A value that may differ from the adapter's. */
  #free(name: string, value: unknown, say: (was: string) => string): void {
    const entry = this.#given.get(name);
    if (entry === undefined || entry.value === null) this.#settled(name, value);
    else if (entry.value !== value)
      this.notices.push(`${nameAt(name, entry.source)} ${shown(entry.value)}: ${say(shown(value))}`);
  }

  #settled(name: string, value: unknown): void {
    this.values.set(name, { value, source: { kind: 'adapter', file: join(this.#folder, 'adapter_config.json') } });
  }

  /** Notes a given value that the adapter contradicts. */
  #contradict(name: string, entry: Given, kept: string): void {
    const received = typeof entry.value === 'string' ? entry.value : shown(entry.value);
    this.#contradictions.push({
      name,
      entry,
      text: `${nameAt(name, entry.source)} is ${kept} there and ${received} here`,
    });
  }

  /** @throws UserError naming every given value that the adapter contradicts, with the adapter's */
  requireNoContradiction(): void {
    const [first] = this.#contradictions;
    if (first === undefined) return;
    const all = this.#contradictions.map(({ text }) => text).join('; ');
    throw new UserError(`Expected the values of the adapter ${this.#folder} but received others: ${all}.`, {
      ...placeOf(first.name, first.entry.source),
      cure: 'An adapter keeps what it was made with: leave these flags out, or give its values. Other values need a new run, with new adapters.',
    });
  }

  /** The given names or pattern have to mean the layers of the adapter. Whether they mean more, the model shows (train/plan.ts). */
  #keepTargets(): void {
    const name = 'lora_target_modules';
    const { targetModules: kept } = this.#config.lora;
    const entry = this.#given.get(name);
    if (entry === undefined) {
      this.#settled(name, kept);
      return;
    }
    const asked = entry.value as string | readonly string[];
    if (sameList(asked, kept)) return;
    const own = adapterTargets(this.#folder);
    const text = typeof kept === 'string' ? kept : some(kept);
    const names = typeof asked === 'string' ? [] : asked;
    const idle = names.some((one) => !own?.some((target) => endsWithName(target, one)));
    if (idle || own === null || !own.every(targetMatcher(asked))) this.#contradict(name, entry, text);
  }

  #keepLayers(): void {
    const name = 'lora_layers_to_transform';
    const { layersToTransform: kept } = this.#config.lora;
    const entry = this.#given.get(name);
    if (entry === undefined) {
      this.#settled(name, kept);
      return;
    }
    if (sameList(entry.value, kept)) return;
    const own = adapterTargets(this.#folder)?.map((target) => layerIndex(target)) ?? [];
    const layers = [...new Set(own.filter((index) => index !== undefined))].sort((a, b) => a - b);
    if (entry.value !== null && sameList(entry.value, layers)) return;
    this.#contradict(name, entry, (kept ?? layers).join(' '));
  }

  #keepVision(vision: boolean, saved: string): void {
    const tune = this.#given.get('tune_vision');
    if (tune === undefined) this.#settled('tune_vision', vision);
    else if (tune.value !== vision) this.#contradict('tune_vision', tune, `${vision} (${saved} is saved whole)`);
  }

  /** The modules saved whole, and with them whether the vision tower trains. */
  #keepSaved(): void {
    const { modulesToSave: kept } = this.#config.lora;
    const saved = kept.length === 0 ? 'nothing' : kept.join(' ');
    const vision = kept.some((one) => partOf(one) === 'vision' || one === 'vision_tower');
    if (this.#decidesVision) this.#keepVision(vision, saved);
    const name = 'lora_modules_to_save';
    const entry = this.#given.get(name);
    if (entry === undefined) {
      this.#settled(name, kept);
      return;
    }
    const asked = (entry.value as readonly string[]).filter((one) => one !== 'vpm' || vision);
    const meant = Object.values(VERSIONS).map(({ parts }) => asked.map((one) => moduleName(one, parts)));
    if (!meant.some((names) => sameList(names, kept))) this.#contradict(name, entry, saved);
  }
}

/** Whether two values are the same, lists whatever their order. */
function sameList(a: unknown, b: unknown): boolean {
  const sorted = (value: unknown): unknown => (Array.isArray(value) ? [...value].sort() : value);
  return JSON.stringify(sorted(a)) === JSON.stringify(sorted(b));
}
