/**
 * What a user is told when a run's device has no memory left. Figures come from the run: its weights and its
 * optimizer's tensors are counted, gradients follow from the trained parameters, the rest is from the allocator. Not
 * here: what other commands say (engine/machine.ts).
 */
import { formatBytes, type RunConfig, UserError } from '@minicpm-finetune/run';
import { type DeviceMemory, deviceMemory, OutOfMemoryError } from '@minicpm-finetune/torch';
import { wantedBytes } from '../engine/machine.js';
import type { Run } from './run.js';

/** Bytes by use. */
interface MemoryUse {
  readonly weights: number;
  /** Moments and float32 weights, those included that the first update makes. */
  readonly optimizer: number;
  readonly gradients: number;
  /** What a micro-batch takes besides: at least, since it did not finish. */
  readonly activations: number;
}

type Counted = Pick<Run, 'config' | 'training' | 'optimizer'>;

/** Share of a device's memory that an estimate may take: what did not fit was not the last tensor of its step. */
const USABLE = 0.9;
/** What is left of the activations with recompute, and of the weights in four bits: rough, and rather too much. */
const RECOMPUTED = 0.35;
const QUANTIZED = { bfloat16: 0.35, float16: 0.35, float32: 0.2 } as const;

const sum = (numbers: Iterable<number>): number => [...numbers].reduce((all, number) => all + number, 0);

/** @param most bytes that tensors took at most, with the one that had no room */
export function memoryUse({ config, training, optimizer }: Counted, most: number): MemoryUse {
  const parameters = [...training.model.namedParameters()].map(([, parameter]) => parameter);
  const weights = sum(parameters.map((parameter) => parameter.compact?.nbytes ?? parameter.data.nbytes));
  const trained = [...training.trainable];
  const updated = trained.map(([name, { data }]) => [name, optimizer.masters.get(name) ?? data] as const);
  const moments = updated.map(([name, { nbytes }]) => {
    const state = optimizer.adamw.state.get(name);
    if (state !== undefined) return state.expAvg.nbytes + state.expAvgSq.nbytes;
    return name.includes('embed_tokens') ? 0 : 2 * nbytes; // a table gets moments for the rows that occur
  });
  const { fused_backward: fused } = config.engine;
  const several = config.batch.gradient_accumulation_steps > 1;
  const whole = trained.filter(([name]) => !name.includes('embed_tokens'));
  const gradients = fused ? 0 : sum(whole.map(([, { data }]) => (several ? 4 * data.numel : data.nbytes)));
  const masters = sum([...optimizer.masters.values()].map(({ nbytes }) => nbytes));
  const present = weights + masters + sum([...optimizer.adamw.state.values()].map((s) => s.expAvg.nbytes * 2));
  return {
    weights,
    optimizer: masters + sum(moments),
    gradients,
    activations: Math.max(0, most - present - gradients),
  };
}

interface Setting {
  readonly flags: string;
  readonly bytes: number;
}

/** Settings that take less, with the estimate of what each takes alone. */
function smaller({ engine, batch, lora, precision, data }: RunConfig, use: MemoryUse): Setting[] {
  const all = use.weights + use.optimizer + use.gradients + use.activations;
  const size = batch.per_device_train_batch_size;
  const settings: (Setting | false)[] = [
    engine.gradient_checkpointing === false && {
      flags: '--gradient_checkpointing true',
      bytes: all - (1 - RECOMPUTED) * use.activations,
    },
    size > 1 && {
      flags: `--per_device_train_batch_size 1 --gradient_accumulation_steps ${size * batch.gradient_accumulation_steps}`,
      bytes: all - (1 - 1 / size) * use.activations + (precision.dtype === 'float32' ? 0 : use.gradients),
    },
    batch.packing && {
      flags: `--model_max_length ${data.model_max_length >> 1}`,
      bytes: all - use.activations / 2,
    },
    !engine.fused_backward &&
      batch.gradient_accumulation_steps === 1 &&
      precision.dtype !== 'float16' && { flags: '--fused_backward true', bytes: all - use.gradients },
    !lora.use_lora && {
      flags: '--use_lora true',
      bytes: use.weights + use.activations + 0.05 * (use.optimizer + use.gradients),
    },
    !lora.q_lora && {
      flags: lora.use_lora ? '--q_lora true' : '--use_lora true --q_lora true',
      bytes:
        QUANTIZED[precision.dtype] * use.weights +
        use.activations +
        (lora.use_lora ? 1 : 0.05) * (use.optimizer + use.gradients),
    },
  ];
  return settings.filter((setting) => setting !== false);
}

const about = (bytes: number): string => `about ${formatBytes(bytes)}`;

/** Which settings fit into `room` bytes, in a sentence. */
export function cureOf(config: RunConfig, use: MemoryUse, room: number): string {
  const settings = smaller(config, use);
  const fitting = settings.filter(({ bytes }) => bytes <= USABLE * room);
  const list = (some: readonly Setting[]): string =>
    some.map(({ flags, bytes }) => `${flags} (${about(bytes)})`).join('; ');
  if (fitting.length > 0) return `By these figures each of these fits: ${list(fitting)}.`;
  const rest = 'a smaller --model_max_length or --max_slice_nums, or a device with more memory';
  if (settings.length === 0) return `Take ${rest}.`;
  return `By these figures none of these fits alone: ${list(settings)}. Take several of them, ${rest}.`;
}

/**
 * The message for a run whose device has no memory left. Other errors are returned as they are. To be called while the run is open.
 *
 * @param memory the device's figures
 */
export function explainRunMemory(
  error: unknown,
  run: Counted,
  memory: (device: string) => DeviceMemory = deviceMemory,
): unknown {
  const { device } = run.training;
  if (!(error instanceof OutOfMemoryError)) return error;
  const { allocated, peak, reserved, free, total } = memory(device);
  const wanted = wantedBytes(error);
  const most = Math.max(peak, allocated + wanted);
  const use = memoryUse(run, most);
  const room = free + reserved;
  const parts = [
    `weights ${formatBytes(use.weights)}`,
    `optimizer ${formatBytes(use.optimizer)}`,
    `gradients ${run.config.engine.fused_backward ? 'of a block' : formatBytes(use.gradients)}`,
    `activations at least ${formatBytes(use.activations)}`,
  ];
  const needed = use.weights + use.optimizer + use.gradients + use.activations;
  const others =
    total > 0
      ? `${formatBytes(total)}, of which other programs take ${formatBytes(Math.max(0, total - room))}`
      : 'an unknown size';
  return new UserError(
    `Expected memory for ${wanted > 0 ? `${formatBytes(wanted)} more` : 'another tensor'} on ${device} but received none: a step takes at least ${formatBytes(needed)} (${parts.join(', ')}), the allocator keeps ${formatBytes(Math.max(0, reserved - allocated))} for later, and the device has ${others}.`,
    { flag: '--device', cure: cureOf(run.config, use, room), cause: error },
  );
}
