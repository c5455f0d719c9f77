/**
 * Parameter groups, AdamW, and float32 master weights. AdamW with Hugging Face's weight-decay groups, float32 master
 * weights for parameters of a smaller type (DeepSpeed's meaning of bf16) or stochastic rounding, clipping to a global
 * norm. Not here: the kernels (packages/torch, stochastic-rounding.ts), the schedule (packages/run).
 */
import type { RunConfig } from '@minicpm-finetune/run';
import {
  AdamW,
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
import { type Segment, type Shard, wholeShards } from '../parallel/segment.js';
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
  if (name.startsWith('vpm.')) return ['vision', settings.visionLearningRate ?? base];
  if (name.startsWith('resampler.')) return ['resampler', settings.resamplerLearningRate ?? base];
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

/** The optimizer of a run: parameters in their own type, masters and moments, and the step. */
export class Optimizer {
  /** float32 copies of parameters of a smaller type. Empty when there are none or none are wanted. */
  readonly masters = new Map<string, Tensor>();
  readonly groups: readonly Group[];
  readonly adamw: AdamW;

  readonly parameters: ReadonlyMap<string, Parameter>;
  /** What of each parameter this process updates; a parameter of which it has nothing is not in it. */
  readonly shards: ReadonlyMap<string, Shard>;

  /** @param shards all of every parameter, unless given */
  constructor(
    parameters: ReadonlyMap<string, Parameter>,
    noDecay: ReadonlySet<string>,
    settings: OptimizerSettings,
    shards: ReadonlyMap<string, Shard> = wholeShards(parameters),
  ) {
    this.parameters = parameters;
    this.shards = shards;
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
    const options = { beta1: settings.beta1, beta2: settings.beta2, eps: settings.eps, starts };
    this.adamw = settings.stochasticRounding
      ? new StochasticAdamW(this.groups, options)
      : new AdamW(this.groups, options);
  }

  /** The tensor that the kernel updates: the parameter itself or its master. */
  #updated(name: string, data: Tensor, masterWeights: boolean): Tensor {
    if (data.dtype === 'float32' || !masterWeights) return data;
    const master = noGrad(() => scope(() => keep(ops.to(ops.detach(data), 'float32'))));
    this.masters.set(name, master);
    return master;
  }

  get segments(): ReadonlyMap<string, Segment> {
    return new Map([...this.shards].map(([name, { segment }]) => [name, segment]));
  }

  /** Updates this process's segments of parameters. The gradients are of the segments, and the caller's. */
  step(gradients: ReadonlyMap<string, Tensor>, { multiplier, seed, rows, skip = null }: StepSettings): void {
    for (const group of this.groups) group.lr = group.baseLr * multiplier;
    scope(() =>
      noGrad(() => {
        this.adamw.step(
          new Map([...gradients].map(([name, gradient]) => [name, this.#typed(name, gradient)] as const)),
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

  /** The gradient in the type of what it updates: a sum over micro-batches is float32, that of one is of the parameter's type. */
  #typed(name: string, gradient: Tensor): Tensor {
    if (this.adamw instanceof StochasticAdamW) return gradient; // computes in float32 anyway
    const { dtype } = this.masters.get(name) ?? this.shards.get(name)!.data;
    return gradient.dtype === dtype ? gradient : ops.to(gradient, dtype);
  }

  dispose(): void {
    this.adamw.dispose();
    for (const master of this.masters.values()) master.dispose();
    this.masters.clear();
  }
}

/** Places of tensors in a list, by their type: libtorch has one kernel for many tensors of one type, and goes through a mixed list one by one. */
function placesByType(tensors: readonly Tensor[]): number[][] {
  const places = new Map<string, number[]>();
  tensors.forEach(({ dtype }, i) => {
    const own = places.get(dtype);
    if (own === undefined) places.set(dtype, [i]);
    else own.push(i);
  });
  return [...places.values()];
}

/** L2 norm over gradients from the sum of their squares: rounded to float32, as PyTorch has it. */
export const normOf = (squares: number): number => Math.fround(Math.sqrt(squares));

/** Sum of the squares of gradients, at least one: a scalar on the device, in float64 where the device has it. */
export function squaresOf(gradients: ReadonlyMap<string, Tensor>): Tensor {
  return ops.sumOfSquares([...gradients.values()]);
}

/** Scales all gradients so that their global norm is at most `maxNorm` (0: leaves them), as `torch.nn.utils.clip_grad_norm_` does. */
export function clipGradients(gradients: ReadonlyMap<string, Tensor>, norm: number, maxNorm: number): void {
  if (maxNorm <= 0 || gradients.size === 0) return;
  const coefficient = maxNorm / (norm + 1e-6);
  if (coefficient >= 1) return;
  const all = [...gradients.values()];
  for (const places of placesByType(all))
    noGrad(() =>
      ops.foreachMul_(
        places.map((i) => all[i]!),
        coefficient,
      ),
    );
}

/** Does what `clipGradients` does with a norm that is on the device, without waiting for it. `norm` is float64 where the device has it. */
export function clipOnDevice(gradients: ReadonlyMap<string, Tensor>, norm: Tensor, maxNorm: number): void {
  if (maxNorm <= 0) return;
  noGrad(() =>
    scope(() => {
      const most = ops.full([], maxNorm, { dtype: norm.dtype, device: norm.device });
      const coefficient = ops.clamp(ops.div(most, ops.addScalar(norm, 1e-6)), null, 1);
      // As a product with a number: the CPU rounds the number to the gradient's type first, others compute in float32 and round once.
      const vector = norm.device === 'cpu' ? null : ops.reshape(ops.to(coefficient, 'float32'), [1]);
      for (const gradient of gradients.values()) ops.mul_(gradient, vector ?? ops.to(coefficient, gradient.dtype));
    }),
  );
}
