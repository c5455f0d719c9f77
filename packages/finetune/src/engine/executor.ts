/**
 * The executor: runs a plan forward and backward. Block by block; around each block it decides what is kept.
 *
 * Every block is differentiated alone: its inputs are cut from the graph before it, so a block's graph can be dropped and built again
 * (recompute, Chen et al., 2016) and its gradients leave through `onGradients` while the blocks before it have not even started. A block
 * whose parameters are frozen and whose inputs need no gradient runs without a graph; so does one that only picks rows of a table, whose
 * gradient is that of its output. A block with weights kept in a smaller form is always recomputed: its graph would keep the expanded
 * weights of all blocks at once.
 *
 * Not here: the loss (loss.ts), what happens to gradients (step.ts), and the models (packages/minicpm-v).
 */
import type { Plan, PlanNode } from '@minicpm-finetune/minicpm-v';
import {
  enableGrad,
  grad,
  keep,
  liveTensors,
  manualSeed,
  noGrad,
  ops,
  scope,
  seedOf,
  type Tensor,
} from '@minicpm-finetune/torch';
import type { Phase } from './profiler.js';

export interface ExecutorOptions {
  /**
   * Every block draws its random numbers from generators seeded by this seed and the block's place in the model: the same when it is
   * recomputed, in whatever order blocks run, on whatever process.
   */
  readonly seed: number;
  /** Blocks for which only the inputs are kept, the inside being computed again in the backward pass. */
  readonly recompute?: (node: PlanNode, inputs: readonly Tensor[]) => boolean;
  /** Told when a block was recomputed: its inputs, and the bytes of the tensors that its forward pass made. */
  readonly onRecomputed?: (node: PlanNode, inputs: readonly Tensor[], bytes: number) => void;
  /** Put around every pass of a block. */
  readonly around?: <T>(phase: Phase, node: PlanNode, run: () => T) => T;
  /** Gets a block's gradients as soon as they exist, by parameter name, newest block first. The tensors are the receiver's. */
  readonly onGradients: (gradients: ReadonlyMap<string, Tensor>, node: PlanNode) => void;
}

/** The part of a block that is kept between its forward and its backward pass. */
interface Saved {
  readonly inputs: readonly Tensor[];
  /** The output with its graph; null when it is recomputed. */
  readonly output: Tensor | null;
}

/** The same values without graph, outside of every scope. */
function owned(value: Tensor): Tensor {
  return keep(ops.detach(value));
}

function isCompact(node: PlanNode): boolean {
  return [...node.parameters.values()].some((parameter) => parameter.compact !== undefined);
}

/** The seed of each block: of its name, and of which of the blocks of that name it is (pictures of several shapes pass a layer one after the other). */
function seedsOf(plan: Plan, seed: number): number[] {
  const seen = new Map<string, number>();
  return plan.map(({ name }) => {
    const place = seen.get(name) ?? 0;
    seen.set(name, place + 1);
    return seedOf(seed, name, place);
  });
}

/** One forward and one backward pass over one batch. Owns what it keeps: call `dispose` when the backward pass does not happen. */
export class Execution {
  readonly #plan: Plan;
  readonly #options: ExecutorOptions;
  readonly #saved: (Saved | null)[] = [];
  readonly #needsGrad: boolean[] = [];
  readonly #seeds: readonly number[];

  constructor(plan: Plan, options: ExecutorOptions) {
    this.#plan = plan;
    this.#options = options;
    this.#seeds = seedsOf(plan, options.seed);
  }

  /** Whether anything before the end of the plan trains, so that the backward pass has something to do. */
  get needsGrad(): boolean {
    return this.#needsGrad.at(-1) ?? false;
  }

  /** Runs all blocks; returns the last one's output, without graph. It belongs to the caller's scope. */
  forward(): Tensor {
    const lastUse = this.#plan.map((_, i) => this.#plan.findLastIndex((node) => node.inputs.includes(i)));
    return scope(() => {
      const values: Tensor[] = [];
      this.#plan.forEach((node, i) => {
        const inputs = node.inputs.map((j) => values[j]!);
        values[i] = this.#around('forward', node, () => this.#forwardBlock(i, inputs));
        for (const j of node.inputs) if (lastUse[j] === i) values[j]!.dispose();
      });
      return values.at(-1)!;
    });
  }

  #forwardBlock(i: number, values: readonly Tensor[]): Tensor {
    const node = this.#plan[i]!;
    const trains = [...node.parameters.values()].some((parameter) => parameter.requiresGrad);
    const needsGrad = trains || node.inputs.some((j) => this.#needsGrad[j]);
    this.#needsGrad[i] = needsGrad;
    this.#saved[i] = null;
    manualSeed(this.#seeds[i]!);
    if (node.rows) this.#saved[i] = { inputs: [], output: null };
    if (!needsGrad || node.rows) return scope(() => noGrad(() => node.forward(...values)));
    if (this.#options.recompute?.(node, values) || isCompact(node)) {
      this.#saved[i] = { inputs: values.map(owned), output: null };
      return scope(() => noGrad(() => node.forward(...values)));
    }
    const inputs = this.#leaves(i, values);
    this.#saved[i] = { inputs, output: null }; // freed by `dispose` if the block fails
    const output = keep(scope(() => enableGrad(() => node.forward(...inputs))));
    this.#saved[i] = { inputs, output };
    return ops.detach(output);
  }

  #around<T>(phase: Phase, node: PlanNode, run: () => T): T {
    return this.#options.around ? this.#options.around(phase, node, run) : run();
  }

  /** Inputs cut from the graph before them. */
  #leaves(i: number, values: readonly Tensor[]): Tensor[] {
    return values.map((value, k) => {
      const leaf = owned(value);
      if (this.#needsGrad[this.#plan[i]!.inputs[k]!]) leaf.requiresGrad = true;
      return leaf;
    });
  }

  /** Sends the gradient of the last output back through all blocks. */
  backward(gradOutput: Tensor): void {
    scope(() => {
      const gradients: (Tensor | undefined)[] = [];
      gradients[this.#plan.length - 1] = gradOutput;
      for (let i = this.#plan.length - 1; i >= 0; i--) {
        const gradient = gradients[i];
        if (gradient !== undefined && this.#saved[i] !== null)
          this.#around('backward', this.#plan[i]!, () => this.#backwardBlock(i, gradient, gradients));
        this.#release(i);
        if (gradient !== gradOutput) gradient?.dispose();
        gradients[i] = undefined;
      }
    });
  }

  #backwardBlock(i: number, gradOutput: Tensor, gradients: (Tensor | undefined)[]): void {
    const node = this.#plan[i]!;
    const saved = this.#saved[i]!;
    if (node.rows) {
      const [name] = node.parameters.keys();
      this.#options.onGradients(new Map([[name!, ops.detach(gradOutput)]]), node);
      return;
    }
    const wanted = node.inputs.map((_, k) => k).filter((k) => this.#needsGrad[node.inputs[k]!]);
    const names = [...node.parameters].filter(([, parameter]) => parameter.requiresGrad).map(([name]) => name);
    const [inputGradients, parameterGradients] = scope(() => {
      const inputs = saved.output === null ? this.#leaves(i, saved.inputs) : saved.inputs;
      const fresh = saved.output === null ? inputs : [];
      try {
        const output = saved.output ?? this.#recompute(i, inputs);
        const targets = [...wanted.map((k) => inputs[k]!), ...names.map((name) => node.parameters.get(name)!.data)];
        const all = output.requiresGrad
          ? grad([output], targets, { gradOutputs: [gradOutput] })
          : targets.map(() => null);
        this.#release(i); // the graph is used up: free it before the gradients are worked on
        return [all.slice(0, wanted.length), all.slice(wanted.length)];
      } finally {
        for (const input of fresh) input.dispose();
      }
    });
    wanted.forEach((k, n) => {
      const gradient = inputGradients[n];
      if (!gradient) return;
      const j = node.inputs[k]!;
      const before = gradients[j];
      gradients[j] = before === undefined ? gradient : ops.add(before, gradient);
      if (before !== undefined) {
        before.dispose();
        gradient.dispose();
      }
    });
    const found = names.flatMap((name, n) => (parameterGradients[n] ? [[name, parameterGradients[n]] as const] : []));
    if (found.length > 0) this.#options.onGradients(new Map(found), node);
  }

  /** Runs a block again with the random numbers it had. */
  #recompute(i: number, inputs: readonly Tensor[]): Tensor {
    const node = this.#plan[i]!;
    const { onRecomputed } = this.#options;
    const before = onRecomputed ? liveTensors().bytes : 0;
    manualSeed(this.#seeds[i]!);
    const output = this.#around('recompute', node, () => enableGrad(() => node.forward(...inputs)));
    onRecomputed?.(node, inputs, liveTensors().bytes - before);
    return output;
  }

  #release(i: number): void {
    const saved = this.#saved[i];
    for (const tensor of saved?.inputs ?? []) tensor.dispose();
    saved?.output?.dispose();
    this.#saved[i] = null;
  }

  /** Frees everything that is kept. */
  dispose(): void {
    for (let i = 0; i < this.#saved.length; i++) this.#release(i);
  }
}
