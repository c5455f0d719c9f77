/**
 * Layers with PyTorch's names and arithmetic. A module is a tree of named children and parameters; its names are the
 * checkpoint's names.
 *
 * Parameters are declared by shape only: nothing is allocated until a checkpoint (or an initialiser) gives them data. There are no
 * hooks and no training flag: what changes a layer from outside is the one `adapter` of a Linear (LoRA), and a parameter that is kept in
 * a smaller form than its tensor (quantized bases).
 */
import type { DType } from './dtype.js';
import { ops } from './ops.js';
import { isCpu } from './process.js';
import { Tensor } from './tensor.js';

/** A weight as products of rows take it. */
export interface RowsWeight {
  readonly weight: Tensor;
  /** Of integers: what 127 stands for in each row. */
  readonly scales: Tensor | null;
}

/** A tensor in a smaller form, from which it is made whenever it is needed. */
export interface CompactTensor {
  readonly shape: readonly number[];
  /** Bytes of the smaller form. */
  readonly nbytes: number;
  /** The tensors that it is made of. */
  readonly tensors: readonly Tensor[];
  /** Takes ownership of other tensors of the same shapes and types in their place, and frees those before that are not among them. */
  replace(tensors: readonly Tensor[]): void;
  /** Makes the tensor. It belongs to the caller's scope. */
  expand(): Tensor;
  /** The smaller form as products of rows take it, integers (out, in) and their scales: without making the tensor. Undefined: they cannot. */
  readonly rows?: RowsWeight | undefined;
  /** Moves the smaller form to a device, where the tensor is then made. */
  moveTo(device: string): void;
  dispose(): void;
}

/** A named place for a tensor. */
export class Parameter {
  #data: Tensor | undefined;
  #compact: CompactTensor | undefined;

  readonly shape: readonly number[];

  constructor(shape: readonly number[]) {
    this.shape = shape;
  }

  get isLoaded(): boolean {
    return this.#data !== undefined || this.#compact !== undefined;
  }

  /** The tensor. Under a compact form a new one at every call, which belongs to the caller's scope. Throws when none was loaded. */
  get data(): Tensor {
    if (this.#compact !== undefined) return this.#compact.expand();
    if (this.#data === undefined)
      throw new Error(`Expected data for a parameter of shape [${this.shape.join(', ')}] but none was loaded`);
    return this.#data;
  }

  /** Takes ownership of a tensor of the declared shape and frees what was before. */
  set data(tensor: Tensor) {
    this.#checkShape(tensor.shape);
    if (this.#data !== tensor) this.dispose();
    this.#data = tensor;
  }

  /** The smaller form that is kept instead of the tensor, if there is one. Such a parameter does not train. */
  get compact(): CompactTensor | undefined {
    return this.#compact;
  }

  /** Takes ownership of a smaller form in place of the tensor, which is freed. */
  set compact(compact: CompactTensor) {
    this.#checkShape(compact.shape);
    if (this.#compact !== compact) this.dispose();
    this.#compact = compact;
  }

  /**
   * Puts a tensor or a smaller form in place of what there is, and returns that: nothing is freed or copied, and the caller owns what it gets.
   * For models that hold several sets of values and change between them.
   */
  exchange(value: Tensor | CompactTensor): Tensor | CompactTensor {
    this.#checkShape(value.shape);
    const before = this.#compact ?? this.#data;
    if (before === undefined)
      throw new Error(`Expected data for a parameter of shape [${this.shape.join(', ')}] but none was loaded`);
    this.#data = value instanceof Tensor ? value : undefined;
    this.#compact = value instanceof Tensor ? undefined : value;
    return before;
  }

  #checkShape(shape: readonly number[]): void {
    if (shape.length === this.shape.length && shape.every((size, i) => size === this.shape[i])) return;
    throw new Error(`Expected shape [${this.shape.join(', ')}] for a parameter but received [${shape.join(', ')}]`);
  }

  get requiresGrad(): boolean {
    return this.#data?.requiresGrad ?? false;
  }

  dispose(): void {
    this.#data?.dispose();
    this.#data = undefined;
    this.#compact?.dispose();
    this.#compact = undefined;
  }
}

const join = (prefix: string, name: string): string =>
  prefix === '' ? name : name === '' ? prefix : `${prefix}.${name}`;

/** A node of the tree. Children and parameters are registered where they are declared as fields. */
export class Module {
  readonly #children = new Map<string, Module>();
  readonly #parameters = new Map<string, Parameter>();

  /** Registers a child under its name in the checkpoint. The empty name puts the child's parameters beside this module's own. */
  protected child<M extends Module>(name: string, module: M): M {
    this.#children.set(name, module);
    return module;
  }

  /** Registers a list as `name.0`, `name.1`, … */
  protected childList<M extends Module>(name: string, modules: M[]): readonly M[] {
    modules.forEach((module, i) => {
      this.#children.set(`${name}.${i}`, module);
    });
    return modules;
  }

  protected removeChild(name: string): void {
    this.#children.delete(name);
  }

  protected parameter(name: string, shape: readonly number[]): Parameter {
    const parameter = new Parameter(shape);
    this.#parameters.set(name, parameter);
    return parameter;
  }

  /** This module and all below, by full name. */
  *namedModules(prefix = ''): Generator<[string, Module]> {
    yield [prefix, this];
    for (const [name, module] of this.#children) yield* module.namedModules(join(prefix, name));
  }

  /** All parameters of this module and those below, by full name. */
  *namedParameters(prefix = ''): Generator<[string, Parameter]> {
    for (const [name, parameter] of this.#parameters) yield [join(prefix, name), parameter];
    for (const [name, module] of this.#children) yield* module.namedParameters(join(prefix, name));
  }

  /** Frees all parameters. */
  dispose(): void {
    for (const [, parameter] of this.namedParameters()) parameter.dispose();
  }
}

/** Low-rank factors: rows `from` to `from + count` of x (N, in) add scaling · up(down(x)) to the output of a layer. */
export interface LowRankRows {
  readonly from: number;
  readonly count: number;
  /** (r, in) */
  readonly down: Tensor;
  /** (out, r) */
  readonly up: Tensor;
  readonly scaling: number;
}

/** An addition to a Linear from outside: takes the layer, its input and its output, and returns the new output. */
export abstract class LinearAdapter extends Module {
  abstract apply(linear: Linear, x: Tensor, y: Tensor): Tensor;

  /**
   * What `apply` does to `rows` rows in a type inside of `eachRowAlone`, for operators that compute several layers, with the same bits. Undefined
   * where it is something else.
   */
  lowRank(_rows: number, _dtype: DType): readonly LowRankRows[] | undefined {
    return undefined;
  }
}

/** How rows (over the last dimension) are computed: with whatever is beside them, each by itself, as a piece that always comes as one, or as several pieces. */
let rowsAre: 'any' | 'alone' | 'a piece' | 'pieces' = 'any';

function withRows<T>(are: typeof rowsAre, fn: () => T): T {
  const before = rowsAre;
  rowsAre = are;
  try {
    return fn();
  } finally {
    rowsAre = before;
  }
}

/**
 * Runs `fn`, inside of which the layers of this file compute each row so that its result is the same in bits whatever rows are beside it, and read
 * a weight once for few rows. For generation: no gradient flows.
 */
export function eachRowAlone<T>(fn: () => T): T {
  return withRows('alone', fn);
}

/** Whether `eachRowAlone` runs. */
export const rowsStandAlone = (): boolean => rowsAre === 'alone';

/** Runs `fn` on rows that always come together: the same rows give the same bits. For generation: no gradient flows. */
export function onePiece<T>(fn: () => T): T {
  return withRows('a piece', fn);
}

/** Runs `fn` on the rows of several pieces one after the other. Where `ops.rowsStandAlone` says so, each of fewer than 512 rows has the bits that `onePiece` gives it. */
export function severalPieces<T>(fn: () => T): T {
  return withRows('pieces', fn);
}

/**
 * x Wᵀ + b; x (…, in), W (out, in), result (…, out). float16 on a CPU is computed in float32 and rounded at the end: few CPUs multiply
 * float16, and libtorch's own way around it is a hundred times slower.
 */
export function linear(x: Tensor, weight: Tensor, bias: Tensor | null): Tensor {
  if (weight.dtype !== 'float16' || !isCpu(weight.device)) return product(x, weight, bias);
  const [wideX, wideWeight] = [ops.to(x, 'float32'), ops.to(weight, 'float32')];
  return ops.to(product(wideX, wideWeight, bias && ops.to(bias, 'float32')), 'float16');
}

function product(x: Tensor, weight: Tensor, bias: Tensor | null): Tensor {
  return rowsAre === 'any'
    ? ops.linear(x, weight, bias)
    : ops.rowsLinear(x, weight, bias, { together: rowsAre === 'a piece' });
}

/** silu(gate) · up, element by element. */
export function swiglu(gate: Tensor, up: Tensor): Tensor {
  return rowsAre === 'alone' ? ops.rowsSwiglu(gate, up) : ops.swiglu(gate, up);
}

/** x + alpha · y, element by element; x may be written to. */
export function addScaled(x: Tensor, y: Tensor, alpha: number): Tensor {
  return rowsAre === 'alone' ? ops.rowsAdd(x, y, alpha) : ops.add_(x, y, { alpha });
}

/** y = x Wᵀ + b, changed by an adapter if there is one. */
export class Linear extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter | undefined;
  #adapter: LinearAdapter | undefined;

  readonly inFeatures: number;
  readonly outFeatures: number;

  constructor(inFeatures: number, outFeatures: number, options: { bias: boolean }) {
    super();
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    this.weight = this.parameter('weight', [outFeatures, inFeatures]);
    this.bias = options.bias ? this.parameter('bias', [outFeatures]) : undefined;
  }

  get adapter(): LinearAdapter | undefined {
    return this.#adapter;
  }

  /** Puts an adapter on the layer (its parameters appear beside `weight`), or takes it off. */
  set adapter(adapter: LinearAdapter | undefined) {
    this.#adapter = adapter;
    if (adapter === undefined) this.removeChild('');
    else this.child('', adapter);
  }

  forward(x: Tensor): Tensor {
    const y = this.#product(x, this.bias?.data ?? null);
    return this.#adapter === undefined ? y : this.#adapter.apply(this, x, y);
  }

  #product(x: Tensor, bias: Tensor | null): Tensor {
    const { compact } = this.weight;
    const rows = rowsAre === 'any' ? undefined : compact?.rows;
    if (rows !== undefined)
      return ops.rowsLinear(x, rows.weight, bias, { scales: rows.scales, together: rowsAre === 'a piece' });
    const weight = this.weight.data;
    const y = linear(x, weight, bias);
    if (compact !== undefined) weight.dispose(); // made for this call; a graph keeps it until its backward pass
    return y;
  }
}

/** Rows of a table; ids (…) int64 or int32, result (…, dim). */
export class Embedding extends Module {
  readonly weight: Parameter;

  readonly numEmbeddings: number;
  readonly embeddingDim: number;

  constructor(numEmbeddings: number, embeddingDim: number) {
    super();
    this.numEmbeddings = numEmbeddings;
    this.embeddingDim = embeddingDim;
    this.weight = this.parameter('weight', [numEmbeddings, embeddingDim]);
  }

  forward(ids: Tensor): Tensor {
    return ops.embedding(this.weight.data, ids);
  }
}

/** Layer normalisation over the last dimension (Ba et al., 2016). */
export class LayerNorm extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;

  readonly dim: number;
  readonly eps: number;

  constructor(dim: number, eps: number) {
    super();
    this.dim = dim;
    this.eps = eps;
    this.weight = this.parameter('weight', [dim]);
    this.bias = this.parameter('bias', [dim]);
  }

  forward(x: Tensor): Tensor {
    return ops.layerNorm(x, [this.dim], this.weight.data, this.bias.data, this.eps);
  }
}

/** Root-mean-square normalisation over the last dimension (Zhang & Sennrich, 2019), in float32 inside. */
export class RMSNorm extends Module {
  readonly weight: Parameter;

  readonly dim: number;
  readonly eps: number;
  readonly offset: number;

  /** @param offset what is added to the weight, in float32: 1 where the checkpoint holds differences from one */
  constructor(dim: number, eps: number, offset = 0) {
    super();
    this.dim = dim;
    this.eps = eps;
    this.offset = offset;
    this.weight = this.parameter('weight', [dim]);
  }

  forward(x: Tensor): Tensor {
    const rmsNorm = rowsAre === 'alone' ? ops.rowsRmsNorm : ops.rmsNorm;
    return rmsNorm(x, this.weight.data, this.eps, this.offset);
  }
}
