/**
 * The cheapest settings that fit into a given memory. What a user set himself stays; what is changed costs little time first,
 * and changes what is learned last.
 */
import type { ModelConfig } from '@minicpm-finetune/processor';
import { formatBytes, type RunConfig, UserError } from '@minicpm-finetune/run';
import { type ConfigValues, resolveConfig } from '../../config/resolve.js';
import type { DeviceName } from '../../engine/machine.js';
import { ANSWERS, type Estimate, estimate } from './estimate.js';
import type { BatchShape } from './shape.js';

/** Values of flags. */
export type Changes = Readonly<Record<string, string | number | boolean>>;

export interface Fitted {
  /** Flags beside those that were given; empty: they fit as they are. */
  readonly changes: Changes;
  readonly estimate: Estimate;
}

export interface FitOptions {
  /** The configuration with changes of flags; null: they cannot be combined. */
  readonly withChanges: (changes: Changes) => RunConfig | null;
  /** Flags that were given. */
  readonly given: ReadonlySet<string>;
  readonly shapeOf: (config: RunConfig) => BatchShape;
  readonly device: DeviceName;
  readonly world: number;
  /** Of the run; those of the configuration when absent. */
  readonly epochs?: number;
  /** Bytes of host memory for each process; without limit when absent. On a CPU it is the device's. */
  readonly hostRoom?: number;
}

/** A change and the flags it needs to be free. */
interface Step {
  readonly flags: readonly string[];
  readonly change: (config: RunConfig, found: Estimate, device: DeviceName) => Changes | null;
}

/** In the order of their cost. Each is put on top of those before it. */
const STEPS: readonly Step[] = [
  {
    flags: ['eval_generate'],
    change: (_, { moment }) => (moment === ANSWERS ? { eval_generate: 0 } : null),
  },
  {
    flags: ['gradient_checkpointing'],
    change: ({ engine }) => (engine.gradient_checkpointing === true ? null : { gradient_checkpointing: true }),
  },
  {
    flags: ['precompute_ref'],
    change: (_, { device: lines }) =>
      lines.some(({ category, bytes }) => category === 'reference' && bytes > 0) ? { precompute_ref: 'true' } : null,
  },
  {
    flags: ['per_device_train_batch_size', 'gradient_accumulation_steps'],
    change: ({ batch, engine }) => {
      const size = batch.per_device_train_batch_size;
      if (size === 1 || engine.fused_backward) return null;
      const steps = size * batch.gradient_accumulation_steps;
      return { per_device_train_batch_size: 1, gradient_accumulation_steps: steps };
    },
  },
  // On a CPU only a folder helps, which the user has to choose.
  {
    flags: ['offload_optimizer', 'offload_params'],
    change: ({ engine }, _, device) =>
      device === 'cpu' || engine.offload_optimizer !== 'none' ? null : { offload_optimizer: 'cpu' },
  },
  {
    flags: ['offload_params'],
    change: ({ engine, lora }, _, device) =>
      device === 'cpu' || lora.q_lora || engine.offload_params !== 'none' ? null : { offload_params: 'cpu' },
  },
  {
    flags: ['dtype', 'bf16', 'fp16', 'bf16_master_weights', 'use_lora'],
    change: ({ precision, lora }) =>
      lora.use_lora || (precision.dtype === 'bfloat16' && !precision.bf16_master_weights)
        ? null
        : { dtype: 'bfloat16', bf16_master_weights: false },
  },
  {
    flags: ['use_lora', 'tune_llm'],
    change: ({ lora }) => (lora.use_lora ? null : { use_lora: true, tune_llm: false }),
  },
  {
    flags: ['q_lora'],
    change: ({ lora, engine }, _, device) => {
      if (lora.q_lora || !lora.use_lora) return null;
      const stays = device !== 'cpu' && engine.offload_params !== 'none'; // quantized weights stay on the device
      return { q_lora: true, ...(stays ? { offload_params: 'none', offload_optimizer: 'cpu' } : {}) };
    },
  },
];

/**
 * Finds the first settings, by cost, whose estimate is at most `room` bytes per device; null: none are. No change among them can be left out.
 */
export function fit(config: RunConfig, read: ModelConfig, room: number, options: FitOptions): Fitted | null {
  const { withChanges, given, shapeOf, device, world, epochs, hostRoom = Number.POSITIVE_INFINITY } = options;
  const own = { device, worlds: [world], ...(epochs === undefined ? {} : { epochs }) };
  const estimated = (one: RunConfig): Estimate => estimate(one, read, shapeOf(one), own)[0]!;
  const fits = ({ deviceBytes, hostBytes }: Estimate): boolean =>
    deviceBytes <= room && (device === 'cpu' || hostBytes / world <= hostRoom);
  let now = { config, changes: {} as Changes };
  let found = estimated(config);
  const made: string[][] = [];
  for (const { flags, change } of STEPS) {
    if (fits(found)) break;
    const fixed = flags.some((flag) => given.has(flag) && !(flag in now.changes));
    const more = fixed ? null : change(now.config, found, device);
    if (more === null) continue;
    const changes = { ...now.changes, ...more };
    const changed = withChanges(changes);
    if (changed === null) continue;
    now = { config: changed, changes };
    found = estimated(changed);
    made.push(Object.keys(more));
  }
  if (!fits(found)) return null;
  let fitted: Fitted = { changes: now.changes, estimate: found };
  for (const names of made.toReversed()) {
    const changes = Object.fromEntries(Object.entries(fitted.changes).filter(([name]) => !names.includes(name)));
    const changed = withChanges(changes);
    const less = changed && estimated(changed);
    if (less && fits(less)) fitted = { changes, estimate: less };
  }
  return fitted;
}

/** A configuration with other values of some flags; null: they cannot be combined with the others. */
export function changedConfig(config: RunConfig, changes: Changes): RunConfig | null {
  try {
    return resolveConfig({ ...(Object.assign({}, ...Object.values(config)) as ConfigValues), ...changes }).config;
  } catch (error) {
    if (error instanceof UserError) return null;
    throw error;
  }
}

/** The flags of changes as words of a command line. */
export const wordsOf = (changes: Changes): string =>
  Object.entries(changes)
    .map(([name, value]) => `--${name} ${value}`)
    .join(' ');

/** A sentence with the settings of a run on this device that fit into `room` bytes. */
export function cureOf(
  config: RunConfig,
  read: ModelConfig,
  room: number,
  options: Pick<FitOptions, 'shapeOf' | 'device' | 'world' | 'epochs' | 'hostRoom'>,
): string {
  const withChanges = (changes: Changes): RunConfig | null => changedConfig(config, changes);
  const found = fit(config, read, room, { ...options, withChanges, given: new Set() });
  const rest = 'a smaller --model_max_length or --max_slice_nums, or a device with more memory';
  const ofFolder = options.device === 'cpu' && config.engine.offload_params === 'none' && !config.lora.q_lora;
  const folder = ofFolder ? ' --offload_params FOLDER trains with weights on a fast disk.' : '';
  if (found === null)
    return `No other settings of the batch, the precision, LoRA and offloading fit: take ${rest}.${folder}`;
  if (Object.keys(found.changes).length === 0) return `By the estimate the settings fit: free memory, or take ${rest}.`;
  return `By the estimate this fits, with ${formatBytes(found.estimate.deviceBytes)}: ${wordsOf(found.changes)}. Or take ${rest}.${folder}`;
}
