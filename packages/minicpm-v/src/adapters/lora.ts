/**
 * Low-rank adapters applied to a model from outside. Each chosen Linear computes y + s·B(A(x)); everything else is
 * frozen, except modules that are trained in full. Names and arithmetic are PEFT's, so adapters are interchangeable
 * (folder.ts). Not here: files, and merging into the base (merge.ts). Papers: LoRA (Hu et al., 2021), rsLoRA
 * (Kalajdzievski, 2023), DoRA (Liu et al., 2024); reference: PEFT 0.21. An adapter has the type of the weight it
 * adapts, so a bfloat16 base gets bfloat16 adapters (a trainer that wants float32 weights keeps master copies); `dtype`
 * selects another type, in which the adapter then computes.
 */
import { UserError } from '@minicpm-finetune/run';
import {
  addScaled,
  type DType,
  keep,
  Linear,
  LinearAdapter,
  type LowRankRows,
  type Module,
  manualSeed,
  noGrad,
  ops,
  type Parameter,
  rowsWeight,
  scope,
  type Tensor,
  withRandomState,
} from '@minicpm-finetune/torch';
import { byPattern, type LoraConfig, type LoraOptions, loraConfig, loraScale } from './lora-config.js';
import { type LoraSelection, selectModules } from './lora-targets.js';

export type { LoraConfig, LoraOptions };

/** Adapters on a model: their configuration and their layers. */
export interface AppliedLora extends LoraSelection {
  readonly config: LoraConfig;
}

/** One adapter: `lora_A` (r, in), `lora_B` (out, r) and, under DoRA, `lora_magnitude_vector` (out). */
export class LoraAdapter extends LinearAdapter {
  readonly loraA: Linear;
  readonly loraB: Linear;
  readonly magnitude: Parameter | undefined;
  /** Dropout works only while this is set. */
  training = false;
  #frozenScale: Tensor | undefined;

  readonly r: number;
  readonly scaling: number;
  readonly options: { readonly dropout: number; readonly useDora: boolean };

  constructor(
    inFeatures: number,
    outFeatures: number,
    r: number,
    scaling: number,
    options: { readonly dropout: number; readonly useDora: boolean },
  ) {
    super();
    this.r = r;
    this.scaling = scaling;
    this.options = options;
    this.loraA = this.child('lora_A', new Linear(inFeatures, r, { bias: false }));
    this.loraB = this.child('lora_B', new Linear(r, outFeatures, { bias: false }));
    this.magnitude = options.useDora ? this.parameter('lora_magnitude_vector', [outFeatures]) : undefined;
  }

  /** x (…, in) and y = linear's output (…, out), which is written to; gives the adapted output (…, out). */
  override apply(linear: Linear, x: Tensor, y: Tensor): Tensor {
    const dtype = this.loraA.weight.data.dtype;
    const typed = x.dtype === dtype ? x : ops.to(x, dtype);
    const dropping = this.training && this.options.dropout > 0;
    const input = dropping ? ops.dropout(typed, this.options.dropout) : typed;
    const update = this.loraB.forward(this.loraA.forward(input)); // (…, out)
    if (this.magnitude === undefined) return addScaled(y, update, this.scaling);
    return this.#dora(linear, dropping ? input : undefined, y, update);
  }

  /** Its factors, for `rows` rows in a type that it computes in. Undefined under DoRA and dropout, and in float16, which is computed another way. */
  override lowRank(rows: number, dtype: DType): readonly LowRankRows[] | undefined {
    const [down, up] = [rowsWeight(this.loraA.weight)?.weight, rowsWeight(this.loraB.weight)?.weight];
    const drops = this.training && this.options.dropout > 0;
    if (this.magnitude !== undefined || drops || down?.dtype !== dtype || up === undefined) return undefined;
    return [{ from: 0, count: rows, down, up, scaling: this.scaling }];
  }

  /**
   * DoRA: m/‖W + sBA‖ · (Wx + sBAx) + b; where dropout works, Wx itself is left whole and only its correction sees the dropped input,
   * as in PEFT.
   */
  #dora(linear: Linear, dropped: Tensor | undefined, y: Tensor, update: Tensor): Tensor {
    const scale = this.#magnitudeScale(linear.weight); // (out)
    const adapted = (base: Tensor): Tensor =>
      ops.mul(scale, addScaled(ops.to(base, update.dtype, false, true), update, this.scaling));
    let result: Tensor;
    if (dropped === undefined) {
      const bias = linear.bias?.data;
      result = adapted(bias === undefined ? y : ops.sub(y, bias));
      if (bias !== undefined) result = ops.add(result, bias);
    } else {
      const base = ops.linear(dropped, ops.to(linear.weight.data, dropped.dtype));
      result = ops.add(y, ops.sub(adapted(base), base));
    }
    return ops.to(result, y.dtype);
  }

  /** m/‖W + sBA‖ by output (out). The norm counts as a constant (section 4.3 of the paper); kept once nothing in it can change. */
  #magnitudeScale(weight: Parameter): Tensor {
    if (this.#frozenScale !== undefined) return this.#frozenScale;
    const magnitude = this.magnitude!.data;
    const norm = noGrad(() => scope(() => ops.to(rowNorms(this.#sum(weight.data)), magnitude.dtype)));
    const scale = ops.div(magnitude, norm);
    if (!magnitude.requiresGrad) this.#frozenScale = keep(scale);
    return scale;
  }

  /** W + sBA (out, in) in float32. */
  #sum(weight: Tensor): Tensor {
    const [a, b] = [ops.to(this.loraA.weight.data, 'float32'), ops.to(this.loraB.weight.data, 'float32')];
    return ops.addmm(ops.to(weight, 'float32'), b, a, { alpha: this.scaling });
  }

  /** The merged weight (out, in), which replaces weight and adapter, in the weight's type; computed in float32. */
  mergedWeight(weight: Tensor): Tensor {
    return noGrad(() =>
      scope(() => {
        const sum = this.#sum(weight);
        if (this.magnitude === undefined) return ops.to(sum, weight.dtype);
        const scale = ops.div(ops.to(this.magnitude.data, 'float32'), rowNorms(sum));
        return ops.to(ops.mul(sum, ops.unsqueeze(scale, 1)), weight.dtype);
      }),
    );
  }

  /**
   * Sets the start: A uniform in ±1/sqrt(in) (Kaiming with a = √5), B zero, the magnitude that of the weight's rows. Draws what PEFT draws,
   * which makes two linear layers with PyTorch's own start first: the same seed gives the same adapter.
   */
  initialize(weight: Tensor, dtype: DType): void {
    scope(() => {
      const place = (tensor: Tensor): Tensor => keep(ops.toDevice(tensor, weight.device, dtype));
      const bound = 1 / Math.sqrt(this.loraA.inFeatures);
      for (const { weight: unused } of [this.loraA, this.loraB])
        ops.uniform_(ops.empty(unused.shape, { dtype: 'float32' }));
      const a = ops.uniform_(ops.empty(this.loraA.weight.shape, { dtype: 'float32' }), -bound, bound);
      this.loraA.weight.data = place(a);
      this.loraB.weight.data = place(ops.zeros(this.loraB.weight.shape));
      if (this.magnitude !== undefined) {
        this.magnitude.data = place(noGrad(() => rowNorms(ops.to(weight, 'float32'))));
      }
    });
  }

  override dispose(): void {
    super.dispose();
    this.#frozenScale?.dispose();
    this.#frozenScale = undefined;
  }
}

function rowNorms(weight: Tensor): Tensor {
  return ops.linalgVectorNorm(weight, 2, [1]);
}

/**
 * Puts new adapters on the layers that `lora` selects, freezes every other parameter, and makes the modules to save (each of their
 * parameters) and the biases that `lora` asks for trainable. `seed` decides the random start; the generator is left as it was.
 *
 * @throws UserError when a pattern, name or layer index selects nothing.
 */
export function applyLora(model: Module, lora: LoraOptions, options: { seed: number; dtype?: DType }): AppliedLora {
  const applied = attachLora(model, loraConfig(lora), true);
  withRandomState([], () => {
    manualSeed(options.seed, 'cpu'); // where the start is drawn, wherever the weights are
    for (const [, linear, adapter] of loraAdapters(model)) {
      adapter.initialize(linear.weight.data, options.dtype ?? linear.weight.data.dtype);
    }
  });
  markTrainable(model, applied);
  return applied;
}

/** Puts adapters without data on the layers that `config` selects; `strict` as in `selectModules`. */
export function attachLora(model: Module, config: LoraConfig, strict: boolean): AppliedLora {
  if (!loraAdapters(model).next().done) {
    throw new Error('Expected a model without adapters but it has some: merge or remove them first');
  }
  const selection = selectModules(model, config, strict);
  const modules = new Map(model.namedModules());
  for (const name of selection.targets) {
    const linear = modules.get(name) as Linear;
    const r = byPattern(config.rankPattern, name) ?? config.r;
    const alpha = byPattern(config.alphaPattern, name) ?? config.alpha;
    checkNumbers(r, alpha, config.dropout);
    const scaling = loraScale({ r, alpha, useRslora: config.useRslora });
    linear.adapter = new LoraAdapter(linear.inFeatures, linear.outFeatures, r, scaling, config);
  }
  return { config, ...selection };
}

function checkNumbers(r: number, alpha: number, dropout: number): void {
  const fail = (what: string, flag: string, received: number): never => {
    throw new UserError(`Expected ${what} for ${flag} but received ${received}.`, { flag: `--${flag}` });
  };
  if (!Number.isInteger(r) || r < 1) fail('an integer of at least 1', 'lora_r', r);
  if (!Number.isFinite(alpha)) fail('a number', 'lora_alpha', alpha);
  if (!(dropout >= 0 && dropout < 1)) fail('a number of at least 0 and below 1', 'lora_dropout', dropout);
}

/** Lets adapters, modules to save and chosen biases train, and freezes the rest. */
export function markTrainable(model: Module, applied: AppliedLora): void {
  freeze(model);
  for (const parameter of adaptedParameters(model, applied).values()) parameter.data.requiresGrad = true;
}

/** Freezes every parameter of a module. */
export function freeze(module: Module): void {
  for (const [, parameter] of module.namedParameters()) if (parameter.requiresGrad) parameter.data.requiresGrad = false;
}

/** The parameters that belong to the adapters, by their full names in the model: low-rank parts, saved modules, chosen biases. */
export function adaptedParameters(model: Module, applied: AppliedLora): Map<string, Parameter> {
  const { config, targets, saved } = applied;
  const isTarget = new Set(targets);
  const belongs = (name: string): boolean => {
    if (saved.some((path) => name.startsWith(`${path}.`))) return true;
    if (/\.lora_(A\.weight|B\.weight|magnitude_vector)$/.test(name)) return true;
    if (config.bias === 'none' || !name.endsWith('.bias')) return false;
    return config.bias === 'all' || isTarget.has(name.slice(0, -'.bias'.length));
  };
  return new Map([...model.namedParameters()].filter(([name]) => belongs(name)));
}

/** The parameters that train, by full name. */
export function trainableParameters(model: Module): Map<string, Parameter> {
  return new Map([...model.namedParameters()].filter(([, parameter]) => parameter.requiresGrad));
}

/** The adapters on a model: module name, layer, adapter. */
export function* loraAdapters(model: Module): Generator<[name: string, linear: Linear, adapter: LoraAdapter]> {
  for (const [name, module] of model.namedModules()) {
    if (module instanceof Linear && module.adapter instanceof LoraAdapter) yield [name, module, module.adapter];
  }
}

/** Switches the dropout of all adapters on or off. They start with it off. */
export function setLoraTraining(model: Module, training: boolean): void {
  for (const [, , adapter] of loraAdapters(model)) adapter.training = training;
}

/** Takes all adapters off and frees them. */
export function removeLora(model: Module): void {
  for (const [, linear, adapter] of [...loraAdapters(model)]) {
    linear.adapter = undefined;
    adapter.dispose();
  }
}
