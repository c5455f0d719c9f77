/** Moments of a rehearsed step. Each with what it takes at most. */
import type { PlanNode } from '@minicpm-finetune/minicpm-v';
import { metaBytes, resetMetaPeak } from '@minicpm-finetune/torch';
import { HEAD } from '../../engine/micro-batch.js';
import type { Phase, StepProfile } from '../../engine/profiler.js';
import { unitName } from '../../parallel/units.js';

const sum = (numbers: Iterable<number>): number => [...numbers].reduce((all, one) => all + one, 0);

/** A part of the step: what is taken beside weights, optimizer and gradients that are complete. */
export interface Moment {
  readonly phase: Phase | 'loss' | 'update' | 'answers';
  /** The block, such as `llm.model.layers.3`; empty in the update and in answers. */
  readonly block: string;
  /** Bytes at most, of the inputs or graphs of blocks that are kept and of what the block itself makes. */
  readonly working: number;
  /** Bytes of that which other blocks keep. */
  readonly kept: number;
  /** Gradients that are there already, by unit: bytes. */
  readonly gradients: ReadonlyMap<string, number>;
  /** Bytes of this block's own gradients. */
  readonly own: number;
}

/** Watches a step: closes a moment wherever a block or a part of it begins or ends. */
export class Watch implements StepProfile {
  readonly moments: Moment[] = [];
  readonly #open: { phase: Moment['phase']; block: string; kept: number }[] = [];
  readonly #gradients = new Map<string, Map<string, number>>();
  readonly #base: number;
  readonly #summed: number;

  /** @param base bytes of everything that outlives the step; @param summed bytes of a number of a sum of gradients, 0: as it is */
  constructor(base: number, summed: number) {
    this.#base = base;
    this.#summed = summed;
    resetMetaPeak();
  }

  span<T>(name: string, _category: string, run: () => T): T {
    return name === 'loss' ? this.#within('loss', HEAD, run) : run();
  }

  block<T>(phase: Phase, node: PlanNode, run: () => T): T {
    return this.#within(phase, node.name, run);
  }

  /** Gradients that are about to be summed. */
  gradients(gradients: ReadonlyMap<string, { numel: number; nbytes: number }>): void {
    for (const [name, { numel, nbytes }] of gradients) {
      const unit = unitName(name);
      const own = this.#gradients.get(unit) ?? new Map<string, number>();
      this.#gradients.set(unit, own.set(name, this.#summed === 0 ? nbytes : this.#summed * numel));
    }
  }

  #within<T>(phase: Moment['phase'], block: string, run: () => T): T {
    this.#close();
    const kept = Math.max(0, metaBytes().inUse - this.#base - sum(this.held.values()));
    this.#open.push({ phase, block, kept });
    try {
      return run();
    } finally {
      this.#close();
      this.#open.pop();
    }
  }

  get held(): ReadonlyMap<string, number> {
    return new Map([...this.#gradients].map(([unit, own]) => [unit, sum(own.values())]));
  }

  #close(): void {
    const { peak } = metaBytes();
    resetMetaPeak();
    const at = this.#open.at(-1);
    if (at === undefined) return;
    const gradients = this.held;
    const complete = sum(gradients.values());
    const own = at.phase === 'forward' ? 0 : (gradients.get(at.block) ?? 0);
    this.moments.push({
      phase: at.phase,
      block: at.block,
      working: Math.max(0, peak - this.#base - complete),
      kept: at.kept,
      gradients,
      own,
    });
  }
}
