/**
 * Where a step's time and memory go. Also compares the language model's blocks with plain matrix products.
 *
 * Floating-point operations are counted as is usual: two for each weight of a matrix and token in the forward pass, as many for the gradient
 * of the input, and as many for that of the weight where it trains; attention by the pairs of tokens that see each other.
 */
import type { MiniCPMV, PlanNode } from '@minicpm-finetune/minicpm-v';
import { partOf } from '@minicpm-finetune/processor';
import { median } from '@minicpm-finetune/run';
import { blockBytes, type DType, deviceMemory, peakResidentBytes, synchronize } from '@minicpm-finetune/torch';
import type { Batch } from '../../engine/collate.js';
import { matmulSpeed } from '../../engine/matmul.js';
import type { Optimizer } from '../../engine/optimizer.js';
import type { Phase, StepProfile } from '../../engine/profiler.js';

export const PARTS = [
  ...['data', 'vision forward', 'vision recompute', 'vision backward', 'language forward', 'language recompute'],
  ...['language backward', 'loss', 'optimizer', 'collective', 'other'],
] as const;

export interface Measurement {
  readonly steps: number;
  /** Seconds per step, of each part; together the whole step. */
  readonly seconds: ReadonlyMap<string, number>;
  readonly samplesPerSecond: number;
  readonly tokensPerSecond: number;
  /** In the blocks of the language model, per second. */
  readonly languageFlops: number;
  /** Of plain matrix products in the model's type, per second: the median of measurements after every step. */
  readonly matmulFlops: number;
  /** Bytes, each at its highest. */
  readonly memory: ReadonlyMap<string, number>;
}

/** Categories of spans that are parts by themselves. */
const OWN_PARTS: ReadonlySet<string> = new Set(['data', 'loss', 'collective']);

/** The weights of matrices that a block multiplies by, and those of them that train. */
function weightsOf(node: PlanNode): { all: number; trained: number } {
  let [all, trained] = [0, 0];
  for (const { shape, requiresGrad } of node.parameters.values()) {
    if (shape.length !== 2) continue;
    const count = shape[0]! * shape[1]!;
    all += count;
    if (requiresGrad) trained += count;
  }
  return { all, trained };
}

const bytesOf = (tensors: readonly { nbytes: number }[]): number =>
  tensors.reduce((sum, { nbytes }) => sum + nbytes, 0);

/** Collects the figures of some steps. */
export class StepMeter implements StepProfile {
  readonly #seconds = new Map<string, number>();
  readonly #memory = new Map<string, number>();
  /** Spans under way, with the time that their inner spans took. */
  readonly #open: { inner: number }[] = [];
  readonly #attention: number; // operations per pair of tokens
  #tokens = 0; // of a micro-batch
  #pairs = 0;
  #flops = 0;
  #layerSeconds = 0;
  #steps = 0;
  #totals = { samples: 0, tokens: 0 };
  #waited = 0;
  #matmul: number[] = [];
  #before = 0; // bytes of tensors when the step began

  readonly #model: MiniCPMV;
  readonly #optimizer: Optimizer;
  readonly #dtype: DType;
  readonly #device: string;

  constructor(model: MiniCPMV, optimizer: Optimizer, dtype: DType, device = 'cpu') {
    this.#model = model;
    this.#optimizer = optimizer;
    this.#dtype = dtype;
    this.#device = device;
    const { llm } = model.config;
    this.#attention = 4 * llm.numHeads * llm.headDim;
  }

  /** Runs an optimizer step on batches that loading took `waited` seconds in all so far. */
  step<T>(batches: readonly Batch[], waited: number, run: () => T): T {
    const start = this.#now();
    this.#before = this.#inUse();
    const sum = (count: (batch: Batch) => number): number => batches.reduce((total, batch) => total + count(batch), 0);
    this.#tokens = sum(({ tokens }) => tokens) / batches.length;
    const lengths = batches.flatMap(({ inputs }) => inputs.lengths ?? []);
    this.#pairs = lengths.reduce((total, length) => total + (length * (length + 1)) / 2, 0) / batches.length;
    this.#totals.samples += sum(({ samples }) => samples);
    this.#totals.tokens += sum(({ tokens }) => tokens);
    this.#add('data', waited - this.#waited);
    this.#waited = waited;
    const before = [...this.#seconds.values()].reduce((total, seconds) => total + seconds, 0);
    const result = run();
    const inside = [...this.#seconds.values()].reduce((total, seconds) => total + seconds, 0) - before;
    this.#add('other', (this.#now() - start) / 1000 - inside);
    this.#steps++;
    this.#matmul.push(matmulSpeed(this.#dtype, this.#device)); // now, and not some time: a shared machine is not always as fast
    return result;
  }

  span<T>(name: string, category: string, run: () => T): T {
    const inUse = this.#inUse();
    if (name === 'loss') this.#most('activations', inUse - this.#before);
    if (name === 'gradient norm') this.#most('gradients', inUse - this.#before);
    return this.#timed(OWN_PARTS.has(category) ? category : 'optimizer', run);
  }

  block<T>(phase: Phase, node: PlanNode, run: () => T): T {
    const part = partOf(node.name) === 'llm' ? 'language' : 'vision';
    if (part === 'vision' || !node.name.includes('.layers.')) return this.#timed(`${part} ${phase}`, run);
    const { all, trained } = weightsOf(node);
    const weights = phase === 'backward' ? all + trained : all;
    const passes = phase === 'backward' ? 2 : 1; // of attention, besides computing it once more
    this.#flops += 2 * this.#tokens * weights + passes * this.#attention * this.#pairs;
    return this.#timed(`${part} ${phase}`, run, true);
  }

  /** Forgets what was measured, but for the memory. */
  restart(): void {
    this.#seconds.clear();
    [this.#flops, this.#layerSeconds, this.#steps] = [0, 0, 0];
    this.#matmul = [];
    this.#totals = { samples: 0, tokens: 0 };
  }

  measurement(): Measurement {
    const all = [...this.#seconds.values()].reduce((sum, seconds) => sum + seconds, 0);
    const { masters, adamw } = this.#optimizer;
    const moments = [...adamw.state.values()].flatMap(({ expAvg, expAvgSq }) => [expAvg, expAvgSq]);
    this.#most(
      'weights',
      bytesOf([...this.#model.namedParameters()].map(([, parameter]) => parameter.compact ?? parameter.data)),
    );
    this.#most('optimizer', bytesOf([...masters.values(), ...moments]));
    if (this.#device === 'cpu') this.#most('all tensors but mapped weights', blockBytes().peak);
    else this.#most(`all tensors on ${this.#device}`, deviceMemory(this.#device).peak);
    this.#most('the whole process', peakResidentBytes());
    return {
      steps: this.#steps,
      seconds: new Map(PARTS.map((part) => [part, (this.#seconds.get(part) ?? 0) / this.#steps])),
      samplesPerSecond: this.#totals.samples / all,
      tokensPerSecond: this.#totals.tokens / all,
      languageFlops: this.#flops / this.#layerSeconds,
      matmulFlops: median(this.#matmul),
      memory: this.#memory,
    };
  }

  /** Adds the time of `run` without that of the spans inside of it. */
  #timed<T>(part: string, run: () => T, layer = false): T {
    const own = { inner: 0 };
    this.#open.push(own);
    const start = this.#now();
    try {
      return run();
    } finally {
      const seconds = (this.#now() - start) / 1000;
      this.#open.pop();
      const outer = this.#open.at(-1);
      if (outer) outer.inner += seconds;
      this.#add(part, seconds - own.inner);
      if (layer) this.#layerSeconds += seconds - own.inner;
    }
  }

  /** Milliseconds, when the device has done all that was asked of it. A step that is measured in parts is therefore slower on a GPU. */
  #now(): number {
    synchronize(this.#device);
    return performance.now();
  }

  #inUse(): number {
    return this.#device === 'cpu' ? blockBytes().inUse : deviceMemory(this.#device).allocated;
  }

  #add(part: string, seconds: number): void {
    this.#seconds.set(part, (this.#seconds.get(part) ?? 0) + seconds);
  }

  #most(what: string, bytes: number): void {
    this.#memory.set(what, Math.max(this.#memory.get(what) ?? 0, bytes));
  }
}
