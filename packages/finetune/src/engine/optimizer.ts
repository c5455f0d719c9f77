/**
 * Parameter groups, AdamW, and float32 master weights. AdamW with Hugging Face's weight-decay groups, float32 master
 * weights for parameters of a smaller type (DeepSpeed's meaning of bf16) or stochastic rounding. Offloaded, all of it is on
 * the CPU, the update too. Not here: clipping (clip.ts), the kernels (packages/torch, stochastic-rounding.ts), the schedule (packages/run).
 */
import { partOf } from '@minicpm-finetune/processor';
import type { RunConfig } from '@minicpm-finetune/run';
import {
  AdamW,
  type AdamWOptions,
  copyTo,
  keep,
  LayerNorm,
  type Module,
  noGrad,
  ops,
  type Parameter,
  type ParamGroup,
  RMSNorm,
  scope,
  type Tensor,
} from '@minicpm-finetune/torch';
import type { Offload } from '../parallel/offload.js';
import { type Segment, type Shard, wholeShards } from '../parallel/segment.js';
import { unitName } from '../parallel/units.js';
import { StochasticAdamW } from './stochastic-rounding.js';

export interface OptimizerSettings {
  readonly learningRate: number;
  readonly visionLearningRate: number | null;
  readonly resamplerLearningRate: number | null;
  readonly embeddingLearningRate: number | null;
  /** Learning rate of lora_B as a multiple of the others' (LoRA+, Hayou et al., 2024). */
  readonly loraPlusRatio: number | null;
  readonly weightDecay: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  /** Keep float32 weights and moments for parameters of a smaller type. */
  readonly masterWeights: boolean;
  /** Without masters: compute bfloat16 updates in float32 and round them stochastically, instead of to the nearest. */
  readonly stochasticRounding?: boolean;
}

/** The settings that a configuration means. */
export function optimizerSettings({ optimizer, precision, lora }: RunConfig): OptimizerSettings {
  const masterWeights = precision.dtype !== 'bfloat16' || precision.bf16_master_weights;
  return {
    learningRate: optimizer.learning_rate,
    visionLearningRate: optimizer.vision_learning_rate,
    resamplerLearningRate: optimizer.resampler_learning_rate,
    embeddingLearningRate: optimizer.embedding_learning_rate,
    loraPlusRatio: lora.loraplus_lr_ratio,
    weightDecay: optimizer.weight_decay,
    beta1: optimizer.adam_beta1,
    beta2: optimizer.adam_beta2,
    eps: optimizer.adam_epsilon,
    masterWeights,
    stochasticRounding: !masterWeights,
  };
}

/**
 * Names that weight decay leaves alone, as transformers 5 decides: whatever a LayerNorm owns, and names with `bias`, `layernorm`,
 * `rmsnorm`, a path element `norm` or one that ends in `_norm`.
 */
export function withoutDecay(model: Module): Set<string> {
  const result = new Set<string>();
  for (const [path, module] of model.namedModules()) {
    const normalises = module instanceof LayerNorm || module instanceof RMSNorm;
    for (const [name] of module.namedParameters(path)) {
      if (normalises || /bias|layernorm|rmsnorm|(^|\.)norm(\.|$)|_norm(\.|$)/.test(name.toLowerCase()))
        result.add(name);
    }
  }
  return result;
}

/** The base learning rate of a parameter, with the name of the rule that gave it. */
function learningRateOf(name: string, settings: OptimizerSettings): [rule: string, rate: number] {
  const base = settings.learningRate;
  const part = partOf(name);
  if (part === 'vision') return ['vision', settings.visionLearningRate ?? base];
  if (part === 'connector') return ['resampler', settings.resamplerLearningRate ?? base];
  if (name.includes('embed_tokens')) return ['embedding', settings.embeddingLearningRate ?? base];
  if (name.includes('.lora_B.')) return ['lora_B', base * (settings.loraPlusRatio ?? 1)];
  return ['base', base];
}

interface Group extends ParamGroup {
  readonly baseLr: number;
}

/** What one update depends on beside the gradients. */
export interface StepSettings {
  /** Multiplies the learning rates. */
  readonly multiplier: number;
  /** Of the run and the step: stochastic rounding draws from it. */
  readonly seed: number;
  /** Gradients that are of these rows of their parameter alone. */
  readonly rows?: ReadonlyMap<string, BigInt64Array>;
  /** As of `AdamW.step`. */
  readonly skip?: Tensor | null;
}

/** What of the parameters an optimizer updates, and where. */
export interface OptimizerPlace {
  /** All of every parameter, unless given. */
  readonly shards?: ReadonlyMap<string, Shard> | undefined;
  /** Where masters and moments are, and where the update runs: beside the parameters unless given. */
  readonly offload?: Offload | null;
}

/** The optimizer of a run: parameters in their own type, masters and moments, and the step. */
export class Optimizer {
  /** float32 copies of parameters of a smaller type. Empty when there are none or none are wanted. */
  readonly masters = new Map<string, Tensor>();
  /** Copies, in their own type, of parameters without masters that are on a device while the update runs on the CPU. */
  readonly #copies = new Map<string, Tensor>();
  readonly #offload: Offload | null;
  /** By the first parameter of an update of several, those of the update after it, as it was the last time. */
  readonly #following = new Map<string, readonly string[]>();
  #last: readonly string[] = [];
  readonly groups: readonly Group[];
  readonly adamw: AdamW;

  readonly parameters: ReadonlyMap<string, Parameter>;
  /** What of each parameter this process updates; a parameter of which it has nothing is not in it. */
  readonly shards: ReadonlyMap<string, Shard>;

  constructor(
    parameters: ReadonlyMap<string, Parameter>,
    noDecay: ReadonlySet<string>,
    settings: OptimizerSettings,
    { shards = wholeShards(parameters), offload = null }: OptimizerPlace = {},
  ) {
    this.parameters = parameters;
    this.shards = shards;
    this.#offload = offload;
    const byKey = new Map<string, { baseLr: number; weightDecay: number; params: Map<string, Tensor> }>();
    for (const [name, { data }] of shards) {
      const [rule, baseLr] = learningRateOf(name, settings);
      const weightDecay = noDecay.has(name) ? 0 : settings.weightDecay;
      const key = `${baseLr === settings.learningRate ? 'base' : rule}${noDecay.has(name) ? ', no decay' : ''}`;
      if (!byKey.has(key)) byKey.set(key, { baseLr, weightDecay, params: new Map() });
      byKey.get(key)!.params.set(name, this.#updated(name, data, settings.masterWeights));
    }
    this.groups = [...byKey].map(([name, group]) => ({ name, lr: group.baseLr, ...group }));
    const starts = new Map([...shards].map(([name, { segment }]) => [name, segment.start]));
    const zeros: Partial<AdamWOptions> =
      offload === null ? {} : { zeros: (shape, dtype) => offload.place.zeros(shape, dtype) };
    const options = { beta1: settings.beta1, beta2: settings.beta2, eps: settings.eps, starts, ...zeros };
    this.adamw = settings.stochasticRounding
      ? new StochasticAdamW(this.groups, options)
      : new AdamW(this.groups, options);
  }

  /** The tensor that the kernel updates: the parameter itself, its master, or a copy of it on the CPU. */
  #updated(name: string, data: Tensor, masterWeights: boolean): Tensor {
    const hasMaster = data.dtype !== 'float32' && masterWeights;
    if (!hasMaster && (this.#offload === null || data.device === 'cpu')) return data;
    const dtype = hasMaster ? 'float32' : data.dtype;
    const copy = this.#copied(data, dtype);
    (hasMaster ? this.masters : this.#copies).set(name, copy);
    return copy;
  }

  #copied(data: Tensor, dtype: Tensor['dtype']): Tensor {
    const offload = this.#offload;
    return noGrad(() =>
      scope(() => {
        if (offload === null) return keep(ops.to(ops.detach(data), dtype));
        const copy = offload.place.zeros(data.shape, dtype);
        ops.copy_(copy, offload.transfer.toHost(ops.detach(data), dtype));
        offload.place.behind([copy]);
        return copy;
      }),
    );
  }

  get segments(): ReadonlyMap<string, Segment> {
    return new Map([...this.shards].map(([name, { segment }]) => [name, segment]));
  }

  /** Updates this process's segments of parameters. The gradients are of the segments, and the caller's. */
  step(gradients: ReadonlyMap<string, Tensor>, settings: StepSettings): void {
    for (const group of this.groups) group.lr = group.baseLr * settings.multiplier;
    const offload = this.#offload;
    // copies in another type are of one unit at a time: those of all take as much as the masters
    const copies = [...gradients].some(([name, { dtype }]) => dtype !== this.#typeOf(name, gradients));
    for (const some of copies || offload ? byUnit(gradients) : [gradients])
      if (offload) this.#updateAside(some, settings, offload);
      else this.#update(some, settings);
  }

  #update(gradients: ReadonlyMap<string, Tensor>, { seed, rows, skip = null }: StepSettings): void {
    scope(() =>
      noGrad(() => {
        this.adamw.step(
          new Map([...gradients].map(([name, gradient]) => [name, typed(gradient, this.#typeOf(name, gradients))])),
          { rows, skip, seed },
        );
        const names = [...gradients.keys()].filter((name) => this.masters.has(name));
        if (names.length === 0) return;
        ops.foreachCopy_(
          names.map((name) => this.shards.get(name)!.data),
          names.map((name) => this.masters.get(name)!),
        );
      }),
    );
  }

  /** Updates the parameters of a unit on the CPU, where their states are. Waits for the device, which needs the new values only later. */
  #updateAside(
    gradients: ReadonlyMap<string, Tensor>,
    { seed, rows, skip = null }: StepSettings,
    { place, transfer }: Offload,
  ): void {
    const names = [...gradients.keys()];
    if (this.#last.length > 0) this.#following.set(this.#last[0]!, names);
    this.#last = names;
    place.ahead(this.#statesOf(this.#following.get(names[0]!) ?? []));
    scope(() =>
      noGrad(() => {
        const here = new Map(
          names.map((name) => [name, transfer.toHost(gradients.get(name)!, this.#typeOf(name, gradients))]),
        );
        this.adamw.step(here, { rows, skip: skip && copyTo(skip, 'cpu'), seed });
        for (const name of names) {
          const updated = this.masters.get(name) ?? this.#copies.get(name);
          if (updated) transfer.toDevice(this.shards.get(name)!.data, updated);
        }
      }),
    );
    place.behind(this.#statesOf(names));
  }

  /** What the place keeps of parameters. */
  #statesOf(names: readonly string[]): Tensor[] {
    return names.flatMap((name) => {
      const state = this.adamw.state.get(name);
      const own = [this.masters.get(name), this.#copies.get(name), state?.expAvg, state?.expAvgSq];
      return own.filter((tensor) => tensor !== undefined);
    });
  }

  /** The type in which a gradient is used: that of what it updates. A sum over micro-batches is float32, that of one is of the parameter's type. */
  #typeOf(name: string, gradients: ReadonlyMap<string, Tensor>): Tensor['dtype'] {
    if (this.adamw instanceof StochasticAdamW) return gradients.get(name)!.dtype; // computes in float32 anyway
    return (this.masters.get(name) ?? this.shards.get(name)!.data).dtype;
  }

  dispose(): void {
    this.adamw.dispose();
    for (const copies of [this.masters, this.#copies]) {
      for (const copy of copies.values()) copy.dispose();
      copies.clear();
    }
  }
}

const typed = (gradient: Tensor, dtype: Tensor['dtype']): Tensor =>
  gradient.dtype === dtype ? gradient : ops.to(gradient, dtype);

/** Gradients by the unit of their parameters, in the order in which they come. */
export function byUnit(gradients: ReadonlyMap<string, Tensor>): Iterable<ReadonlyMap<string, Tensor>> {
  const units = new Map<string, Map<string, Tensor>>();
  for (const [name, gradient] of gradients) {
    const unit = unitName(name);
    if (!units.has(unit)) units.set(unit, new Map());
    units.get(unit)!.set(name, gradient);
  }
  return units.values();
}
