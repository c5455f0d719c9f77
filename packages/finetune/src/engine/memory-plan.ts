/**
 * Which blocks keep their graph and which are recomputed. So that a run stays within a memory budget
 * (--gradient_checkpointing auto); also checks whether a run does (--memory_budget). Nothing is predicted that can be
 * measured:
 *
 * - A batch that is larger than any before, in tokens or patches, is computed with everything recomputed. The resident memory it takes is the
 *   baseline: weights, gradients, optimizer, one block's graph.
 * - Whenever a block is recomputed, the bytes of the tensors that its forward pass makes are counted, per number of its input. This is a little
 *   more than its graph holds.
 * - Any other batch keeps blocks, from the first one on, as long as baseline and kept blocks fit into 95 % of the budget.
 *
 * Losses and gradients do not depend on it. Not here: running blocks (executor.ts).
 */
import type { PlanNode } from '@minicpm-finetune/minicpm-v';
import { formatBytes, UserError } from '@minicpm-finetune/run';
import { deviceMemory, type Tensor, trimMemory } from '@minicpm-finetune/torch';

/** Share of the budget that is planned with. */
const PLANNED = 0.95;
/** Optimizer steps until everything there is has been allocated: gradients and moments come in the first one. */
const WARMUP = 2;

/** Where the figures of a memory come from. */
export interface MemoryFigures {
  /** Bytes taken now. */
  readonly taken: () => number;
  /** Bytes that could be taken besides. */
  readonly available: () => number;
}

/** The machine's memory: what the process has resident, and what is available. */
export const hostMemory: MemoryFigures = {
  taken: () => process.memoryUsage.rss(),
  available: () => process.availableMemory(),
};

/** A device's memory: what tensors take, and what is free or kept for later. */
export const memoryOf = (device: string): MemoryFigures => ({
  taken: () => deviceMemory(device).allocated,
  available: () => {
    const { allocated, reserved, free } = deviceMemory(device);
    return free + reserved - allocated;
  },
});

export interface MemoryPlanOptions {
  readonly recompute: boolean | 'auto';
  /** Bytes; null: what the machine has available now. */
  readonly budget: number | null;
  /** Of the machine or device that the budget is of. */
  readonly memory?: MemoryFigures;
  readonly notice: (message: string) => void;
}

/** The size of a micro-batch. */
export interface BatchSize {
  readonly tokens: number;
  readonly patches: number;
}

export class MemoryPlan {
  readonly budget: number;
  readonly #options: MemoryPlanOptions;
  readonly #resident: () => number;
  /** Bytes that a block's forward pass makes, per number of its first input. */
  readonly #costs = new Map<string, number>();
  #largest: BatchSize = { tokens: 0, patches: 0 };
  /** Most resident memory with everything recomputed. */
  #baseline = 0;
  /** Most resident memory that was ever planned with. The allocator keeps what was freed, so the memory of small batches says nothing. */
  #planned = 0;
  /** Most resident memory of this step. */
  #peak = 0;
  #measuring = true;
  #keptBytes = 0;
  #kept = 0;
  #blocks = 0;
  #steps = 0;
  #said = false;

  constructor(options: MemoryPlanOptions) {
    this.#options = options;
    const { taken, available } = options.memory ?? hostMemory;
    this.#resident = taken;
    this.budget = options.budget ?? taken() + 0.9 * available();
  }

  /** What it plans with now, in bytes; null in the first steps, in which it measures. */
  get figures(): { readonly budget: number; readonly baseline: number; readonly kept: number } | null {
    if (this.#steps < WARMUP) return null;
    return { budget: this.budget, baseline: this.#baseline, kept: this.#keptBytes };
  }

  /** A micro-batch begins. */
  begin({ tokens, patches }: BatchSize): void {
    this.#measuring = this.#steps < WARMUP || tokens > this.#largest.tokens || patches > this.#largest.patches;
    this.#largest = {
      tokens: Math.max(tokens, this.#largest.tokens),
      patches: Math.max(patches, this.#largest.patches),
    };
    [this.#keptBytes, this.#kept, this.#blocks] = [0, 0, 0];
    if (this.#measuring && this.#options.recompute === 'auto') trimMemory();
  }

  /** Whether a block that is about to run is to be recomputed. */
  recomputes(node: PlanNode, inputs: readonly Tensor[]): boolean {
    if (this.#options.recompute !== 'auto') return this.#options.recompute;
    this.#blocks++;
    const cost = this.#costs.get(node.name);
    if (this.#measuring || cost === undefined || inputs[0] === undefined) return true;
    const bytes = cost * inputs[0].numel;
    if (this.#baseline + this.#keptBytes + bytes > PLANNED * this.budget) return true;
    this.#keptBytes += bytes;
    this.#kept++;
    this.#planned = Math.max(this.#planned, this.#baseline + this.#keptBytes);
    return false;
  }

  /** A block was recomputed, and its forward pass created tensors of `bytes` bytes. */
  recomputed(node: PlanNode, inputs: readonly Tensor[], bytes: number): void {
    this.sample();
    if (inputs[0] === undefined) return;
    this.#costs.set(node.name, Math.max(this.#costs.get(node.name) ?? 0, bytes / inputs[0].numel));
  }

  /** Looks at the memory now: to be called where it is highest, between forward and backward pass. */
  sample(): void {
    const now = this.#resident();
    this.#peak = Math.max(this.#peak, now);
    if (this.#measuring) this.#baseline = Math.max(this.#baseline, now);
    else this.#baseline += Math.max(0, now - this.#planned); // what could not be foreseen counts from now on
    this.#planned = Math.max(this.#planned, this.#baseline, now);
  }

  /** An optimizer step is done. Throws a UserError if the first ones take more than the budget that was given. */
  endStep(): void {
    this.sample();
    this.#steps++;
    if (this.#options.recompute === 'auto' && !this.#measuring && !this.#said) {
      const kept = `${this.#kept} of ${this.#blocks} blocks keep their graph, the others are recomputed`;
      this.#options.notice(`${kept}, to stay within ${formatBytes(this.budget)}.`);
      this.#said = true;
    }
    const peak = this.#peak;
    this.#peak = 0;
    if (this.#options.budget !== null && peak > this.budget) this.#exceeded(peak);
  }

  #exceeded(peak: number): void {
    const what = `${formatBytes(this.budget)} at most for --memory_budget but received ${formatBytes(peak)} at step ${this.#steps} of this start`;
    if (this.#steps > WARMUP) {
      this.#options.notice(`Expected ${what}: later batches may be recomputed more.`);
      return;
    }
    throw new UserError(`Expected ${what}.`, {
      flag: '--memory_budget',
      cure:
        this.#options.recompute === false
          ? 'Recompute what does not fit: give --gradient_checkpointing auto. Or allow more.'
          : 'Allow more, or use smaller batches, a smaller --model_max_length, --use_lora or --fused_backward.',
    });
  }
}
