/**
 * `npm run bench:own`: trains on fixed batches, prints figures. One JSON line: losses, seconds per step, samples/s,
 * peak memory. Takes the files and flags of a PyTorch side that trains the same way, so that both can be compared in
 * one sitting. See packages/lab/README.md.
 */
import { median, type RunConfig } from '@minicpm-finetune/run';
import {
  allowTf32,
  type DType,
  deviceMemory,
  deviceWaits,
  type Group,
  peakResidentBytes,
  synchronize,
  yieldToEventLoop,
} from '@minicpm-finetune/torch';
import { Command, Option } from 'commander';
import {
  type DeviceName,
  type Measurement,
  NO_REWARDS,
  Optimizer,
  optimizerSettings,
  type PreferenceOptions,
  PreferenceStep,
  prepareModel,
  type Ranks,
  resolveConfig,
  Sharding,
  SILENT,
  type Stage,
  StartReference,
  StepMeter,
  type StepResult,
  startEngine,
  startOfTrained,
  tracedGroup,
  trainStep,
  VisionCache,
  withoutDecay,
} from 'minicpm-finetune/internal';
import { overRanks } from '../ranks.js';
import { BatchFile, batchTo } from './batches.js';

interface Flags {
  checkpoint: string;
  batches: string;
  steps: number;
  lora: boolean;
  lora_r: number;
  lora_target_modules?: string;
  modules_to_save: string;
  freeze_vision: boolean;
  bf16: boolean;
  gradient_checkpointing: boolean;
  fused_backward: boolean;
  cache_vision?: string;
  master_weights: boolean;
  lr: number;
  threads: number;
  device: 'auto' | DeviceName;
  tf32: boolean;
  seed: number;
  ranks: number;
  zero_stage: '0' | '2' | '3';
  micro_batches: number;
  preference: boolean;
}

/** Steps that are measured in parts on a device that works on its own. */
const PARTS_STEPS = 3;

function parseFlags(words: readonly string[]): Flags {
  const number = (text: string): number => {
    if (!Number.isFinite(Number(text)) || text.trim() === '') throw new Error(`Expected a number but received ${text}`);
    return Number(text);
  };
  const command = new Command('bench:own')
    .description('Trains on fixed batches and prints one JSON line of figures.')
    .requiredOption('--checkpoint <dir>', 'folder with config.json and model.safetensors')
    .requiredOption('--batches <file>', 'safetensors file with collated batches')
    .option('--steps <n>', 'optimizer steps', number, 8)
    .option('--lora', 'train LoRA adapters on q, k, v, o of the language model', false)
    .option('--lora_r <r>', 'rank', number, 64)
    .option('--lora_target_modules <pattern>', 'which layers get adapters; default: as `train` does')
    .option('--modules_to_save <names>', "modules trained whole beside LoRA; '' for none", 'embed_tokens,resampler')
    .option('--freeze_vision', 'do not train the vision tower', false)
    .option('--bf16', 'weights, activations and gradients in bfloat16', false)
    .option('--master_weights', 'float32 weights and moments beside bfloat16 ones', false)
    .option('--gradient_checkpointing', "compute each block's inside again in the backward pass", false)
    .option('--fused_backward', 'update parameters in the backward pass', false)
    .option('--cache_vision <dir>', 'store features of the frozen vision tower there and use those stored')
    .option('--lr <rate>', 'constant learning rate', number, 1e-4)
    .option('--threads <n>', 'threads of libtorch', number, 2)
    .addOption(new Option('--device <name>', 'where to compute').choices(['auto', 'cpu', 'cuda', 'mps']).default('cpu'))
    .option('--tf32', 'let NVIDIA GPUs round float32 products to TF32', false)
    .option('--seed <n>', 'seed of the LoRA initialisation', number, 0)
    .option('--micro_batches <n>', 'batches of a step, over all ranks', number, 1)
    .option('--preference', 'DPO with the base as reference: each answer against itself backwards', false)
    .option('--ranks <n>', 'processes on the CPU that share the model out', number, 1)
    .addOption(new Option('--zero_stage <n>', 'how they do').choices(['0', '2', '3']).default('3'));
  return command.parse([...words], { from: 'user' }).opts<Flags>();
}

/** The configuration of `train` that means the same. Neither data nor output folder are used. */
function configOf(flags: Flags): RunConfig {
  const saved = flags.modules_to_save.split(',').filter((name) => name !== '');
  return resolveConfig({
    model_name_or_path: flags.checkpoint,
    data_path: [flags.batches],
    output_dir: '.',
    tune_vision: !flags.freeze_vision,
    use_lora: flags.lora,
    ...(flags.lora ? loraValues(flags, saved) : {}),
    learning_rate: flags.lr,
    weight_decay: 0.1,
    adam_beta1: 0.9,
    adam_beta2: 0.95,
    adam_epsilon: 1e-8,
    max_grad_norm: 1,
    dtype: flags.bf16 ? 'bfloat16' : 'float32',
    ...(flags.bf16 ? { bf16_master_weights: flags.master_weights } : {}),
    gradient_checkpointing: flags.gradient_checkpointing,
    fused_backward: flags.fused_backward,
    device: flags.device,
    threads: flags.threads,
    tf32: flags.tf32,
    seed: flags.seed,
  }).config;
}

function loraValues({ lora_r: r, lora_target_modules: targets, freeze_vision }: Flags, saved: readonly string[]) {
  const lora_modules_to_save = [...saved, ...(freeze_vision ? [] : ['vpm'])];
  const named = targets === undefined ? {} : { lora_target_modules: targets };
  return { lora_r: r, lora_alpha: r, lora_dropout: 0, lora_modules_to_save, ...named };
}

const DPO: PreferenceOptions = {
  ...{ loss: 'dpo', beta: 0.1, labelSmoothing: 0, rpoAlpha: 0, simpoGamma: 0 },
  ...{ desirableWeight: 1, undesirableWeight: 1 },
};

function stepSettings({ engine, optimizer }: RunConfig) {
  return {
    maxGradNorm: optimizer.max_grad_norm,
    recompute: engine.gradient_checkpointing !== false,
    fused: engine.fused_backward,
    perMicroBatch: false,
  };
}

/** What the steps need. */
function prepared(flags: Flags, group: Group) {
  const config = configOf(flags);
  const device = startEngine(config.engine);
  allowTf32(config.engine.tf32);
  const training = prepareModel(config, flags.checkpoint, SILENT, null);
  const { model, trainable } = training;
  // the other side's AdamW rounds to the nearest
  const settings = { ...optimizerSettings(config), stochasticRounding: false };
  const watched: { by: StepMeter | null } = { by: null };
  const seen = tracedGroup(group, () => watched.by);
  const stage = Number(flags.zero_stage) as Stage;
  const sharding = group.size === 1 ? null : new Sharding(model, { group: seen, stage, trainable });
  const optimizer = new Optimizer(trainable, withoutDecay(model), settings, { shards: sharding?.shards });
  const folder = flags.cache_vision;
  const vision = folder ? new VisionCache(model, { folder, limit: 20e9, notice: (text) => console.error(text) }) : null;
  const { dtype } = config.precision;
  const meter = new StepMeter(model, optimizer, dtype, device);
  const options = { ...stepSettings(config), vision, sharding };
  const start = flags.preference ? startOfTrained(trainable, true) : null;
  const reference = start && new StartReference(model, trainable, start, true);
  const objective = (): { objective?: PreferenceStep } =>
    reference === null
      ? {}
      : { objective: new PreferenceStep({ options: DPO, reference, rewards: NO_REWARDS, group }) };
  return { objective, device, dtype, training, model, optimizer, meter, watched, options };
}

/** This rank's batches of a step, in the host's memory. */
function batchesOf(
  file: BatchFile,
  step: number,
  { micro_batches: count, preference }: Flags,
  { rank, size }: Group,
  dtype: DType,
) {
  const parts = Array.from({ length: count / size }, (_, k) => k * size + rank);
  return parts.map((part) => file.batch((step * count + part) % file.length, dtype, preference));
}

/** Adds the processor seconds of all threads to `seconds`: what other programs take does not count. */
function withCpuSeconds<T>(fn: () => T, seconds: number[]): T {
  const used = process.cpuUsage();
  const result = fn();
  const { user, system } = process.cpuUsage(used);
  seconds.push((user + system) / 1e6);
  return result;
}

async function measure(flags: Flags, { group }: Ranks): Promise<number> {
  const { device, dtype, training, model, optimizer, meter, watched, options, objective } = prepared(flags, group);
  const file = new BatchFile(flags.batches);
  const losses: number[] = [];
  const start = performance.now(); // since the process began
  const seconds: number[] = [];
  const cpuSeconds: number[] = [];
  const peaks: number[] = [];
  // On a GPU the meter waits after every block: steps are timed without it, and PARTS_STEPS more are measured with it.
  const extra = device === 'cpu' ? 0 : PARTS_STEPS;
  let [samples, tokens] = [0, 0];
  let waits = 0;
  let peak = 0; // of a device, without what the meter's own products take
  for (let step = 0; step < flags.steps + extra; step++) {
    const started = performance.now();
    const onHost = batchesOf(file, step, flags, group, dtype);
    const read = performance.now();
    const metered = device === 'cpu' || step >= flags.steps;
    const batches = onHost.map((batch) => batchTo(batch, device));
    const compute = (): StepResult => {
      const waited = deviceWaits();
      const profile = metered ? { profile: meter } : {};
      const result = trainStep(model, batches, optimizer, 1, { ...options, ...objective(), ...profile });
      waits = Math.max(waits, deviceWaits() - waited);
      synchronize(device);
      return result;
    };
    const time = (): StepResult => {
      const result = withCpuSeconds(compute, cpuSeconds);
      // the other side's time begins when the batch is in the host's memory
      if (step < flags.steps) seconds.push((performance.now() - (device === 'cpu' ? started : read)) / 1000);
      return result;
    };
    if (step > 0 && step < flags.steps) {
      samples += batches.reduce((sum, batch) => sum + batch.samples, 0);
      tokens += batches.reduce((sum, batch) => sum + batch.tokens, 0);
    }
    watched.by = metered ? meter : null;
    const { loss } = metered ? meter.step(batches, 0, time) : time();
    if (step < flags.steps) losses.push(loss);
    if (!metered) peak = deviceMemory(device).peak;
    if (step === 0) meter.restart();
    peaks.push(Math.round(peakResidentBytes() / 2 ** 20));
    await yieldToEventLoop();
  }
  watched.by = null;
  report({ losses, start, seconds, cpuSeconds, peaks, samples, tokens, peak, waits, device, group, meter, training });
  return 0;
}

/** What a measurement is about to print. */
interface Measured extends Pick<ReturnType<typeof prepared>, 'device' | 'meter' | 'training'>, Pick<Ranks, 'group'> {
  readonly losses: readonly number[];
  /** Milliseconds since the process began. */
  readonly start: number;
  readonly seconds: readonly number[];
  readonly cpuSeconds: readonly number[];
  readonly peaks: readonly number[];
  readonly samples: number;
  readonly tokens: number;
  readonly peak: number;
  readonly waits: number;
}

function report(measured: Measured): void {
  const { losses, start, seconds, cpuSeconds, peaks, samples, tokens, peak, waits, device, group, meter, training } =
    measured;
  const counted = seconds.slice(1);
  const elapsed = counted.reduce((sum, s) => sum + s, 0);
  const [allSamples, allTokens] = group.sum([samples, tokens], 'samples and tokens');
  if (group.rank !== 0) return;
  console.log(
    JSON.stringify({
      losses,
      start_s: Number((start / 1000).toFixed(3)),
      step_s: seconds.map((s) => Number(s.toFixed(4))),
      step_cpu_s: cpuSeconds.map((s) => Number(s.toFixed(3))),
      median_step_s: counted.length === 0 ? null : median(counted),
      samples_per_s: Number((allSamples! / elapsed).toFixed(4)),
      tokens_per_s: Number((allTokens! / elapsed).toFixed(1)),
      peak_rss_mib_by_step: peaks,
      ...(device === 'cpu' ? {} : { peak_device_mib: Number((peak / 2 ** 20).toFixed(1)) }),
      device_waits: waits,
      peak_rss_mib: Number((peakResidentBytes() / 2 ** 20).toFixed(1)),
      ...partsOf(meter.measurement()),
      trainable: training.trainableNumbers,
    }),
  );
}

/** Figures that only this side reports. */
function partsOf({ seconds, memory, languageFlops, matmulFlops }: Measurement) {
  return {
    parts_s: Object.fromEntries([...seconds].map(([name, value]) => [name, Number(value.toFixed(4))])),
    memory_mib: Object.fromEntries([...memory].map(([name, bytes]) => [name, Math.round(bytes / 2 ** 20)])),
    language_gflops: Math.round(languageFlops / 1e9),
    matmul_gflops: Math.round(matmulFlops / 1e9),
  };
}

const flags = parseFlags(process.argv.slice(2));
if (flags.micro_batches % flags.ranks !== 0 || flags.micro_batches === 0)
  throw new Error(
    `Expected a multiple of --ranks ${flags.ranks} for --micro_batches but received ${flags.micro_batches}`,
  );
process.exitCode = await overRanks(flags.ranks, (ranks) => measure(flags, ranks));
