/**
 * One micro-batch's way through the units, agreed by all ranks. Before it, ranks tell each other which units they need;
 * a unit that any of them needs is visited by all, in one order, forward and backward. A rank without work for a unit
 * (no pictures, no record at all) takes part all the same, so no rank ever waits for one that does something else.
 *
 * (DeepSpeed and FSDP follow the flow of control, and hang where it differs.) Not here: what a visit does (sharding.ts).
 */
import { strict as assert } from 'node:assert';
import type { Plan, PlanNode } from '@minicpm-finetune/minicpm-v';
import type { Group } from '@minicpm-finetune/torch';
import { type Unit, unitName } from './units.js';

/** What happens at a visit. */
export interface Visitor {
  /**
   * The unit's weights are needed from now on; `next` is the unit that will be visited after it in the same pass. `rows`: of a token table, the
   * rows that this rank reads.
   */
  begin(unit: Unit, next: Unit | undefined, pass: Pass, rows?: BigInt64Array): void;
  /** They are not needed any more. */
  end(unit: Unit): void;
  /** The backward pass of the unit has ended on this rank, and on all ranks it comes next. `wide`: gradients are float32 sums over blocks on some rank. */
  gradients(unit: Unit, wide: boolean): void;
}

export type Pass = 'forward' | 'backward';

// What a rank needs of a unit.
const FORWARD = 1;
const BACKWARD = 2;
/** Several of its blocks read a parameter of the unit. */
const WIDE = 4;
/** The unit's parameters get gradients from the head. */
const HEAD = 8;

export interface PassageOptions {
  readonly group: Group;
  readonly units: readonly Unit[];
  /** Names of the head's parameters. */
  readonly head: readonly string[];
  readonly visitor: Visitor;
  /** What the micro-batch is, the same on all ranks. */
  readonly label: string;
}

/** A micro-batch of this rank: its plan in the order of the units, and whether it has a loss. Without a record: an empty plan. */
export interface Work {
  readonly plan: Plan;
  readonly supervised: boolean;
  readonly trains: boolean;
}

export class Passage {
  readonly #visitor: Visitor;
  readonly #unitOf: (node: PlanNode) => Unit | undefined;
  readonly #wide: ReadonlySet<Unit>;
  readonly #head: readonly Unit[];
  /** Units whose gradients are complete when the head's backward pass is over. */
  readonly #headAlone: readonly Unit[];
  readonly #forward: readonly Unit[];
  readonly #backward: readonly Unit[];
  #list: readonly Unit[];
  #at = 0;
  #current: Unit | undefined;

  /** Agrees with the other ranks: collective. */
  constructor({ group, units, head, visitor, label }: PassageOptions, work: Work) {
    this.#visitor = visitor;
    const byName = new Map(units.map((unit) => [unit.name, unit]));
    this.#unitOf = (node) => {
      const names = new Set([...node.parameters.keys()].map(unitName));
      assert.ok(names.size <= 1, `${node.name} reads ${[...names].join(' and ')}`);
      const [name] = names;
      return name === undefined ? undefined : byName.get(name);
    };
    const needs = this.#needs(units, head, work);
    const all = group.exchange(needs, `units of ${label}`);
    const flags = units.map((_, i) => all.reduce((some, own) => some | own[i]!, 0));
    const having = (flag: number): Unit[] => units.filter((_, i) => (flags[i]! & flag) !== 0);
    this.#head = units.filter(({ name }) => head.some((parameter) => unitName(parameter) === name));
    this.#wide = new Set(having(WIDE));
    this.#forward = having(FORWARD);
    this.#backward = having(BACKWARD).reverse();
    this.#headAlone = having(HEAD).filter((unit) => !this.#backward.includes(unit));
    this.#list = this.#forward;
  }

  /** What this rank needs of each unit, as flags. */
  #needs(units: readonly Unit[], head: readonly string[], { plan, supervised, trains }: Work): number[] {
    const flags = units.map(() => 0);
    if (trains && supervised)
      for (const unit of units) if (head.some((name) => unitName(name) === unit.name)) flags[unit.index] = HEAD;
    const reads = new Map<string, number>(head.map((name) => [name, 1]));
    const needsGrad: boolean[] = [];
    plan.forEach((node, i) => {
      const unit = this.#unitOf(node);
      const own = [...node.parameters].filter(([, { requiresGrad }]) => requiresGrad);
      needsGrad[i] = own.length > 0 || node.inputs.some((j) => needsGrad[j]);
      if (unit === undefined) return;
      flags[unit.index]! |= FORWARD;
      if (trains && supervised && needsGrad[i]) flags[unit.index]! |= BACKWARD;
      for (const [name] of own) {
        const count = (reads.get(name) ?? 0) + 1;
        reads.set(name, count);
        if (count > 1) flags[unit.index]! |= WIDE;
      }
    });
    return flags;
  }

  /** The plan has run; the head is about to. */
  head(): void {
    this.#finish();
    for (const [i, unit] of this.#head.entries()) this.#visitor.begin(unit, this.#head[i + 1], 'forward');
  }

  /** The head has run, backward as well where there is something to train. */
  headDone(): void {
    for (const unit of this.#head) this.#visitor.end(unit);
    for (const unit of this.#headAlone) this.#visitor.gradients(unit, this.#wide.has(unit));
    [this.#list, this.#at, this.#current] = [this.#backward, 0, undefined];
  }

  /** The backward pass is over. */
  end(): void {
    this.#finish();
  }

  /** A block is about to run, forward or backward: goes to its unit, and visits the units before it that only others need. */
  enter(node: PlanNode): void {
    const unit = this.#unitOf(node);
    if (unit === undefined || unit === this.#current) return;
    this.#leave();
    while (this.#list[this.#at] !== unit) {
      assert.ok(this.#at < this.#list.length, `${unit.name} is visited in the agreed order`);
      this.#begin(this.#list[this.#at]!);
      this.#leave();
    }
    this.#begin(unit, node.rows);
  }

  #begin(unit: Unit, rows?: BigInt64Array): void {
    this.#visitor.begin(unit, this.#list[this.#at + 1], this.#list === this.#backward ? 'backward' : 'forward', rows);
    this.#current = unit;
  }

  #leave(): void {
    const unit = this.#current;
    if (unit === undefined) return;
    this.#visitor.end(unit);
    if (this.#list === this.#backward) this.#visitor.gradients(unit, this.#wide.has(unit));
    this.#current = undefined;
    this.#at++;
  }

  #finish(): void {
    this.#leave();
    while (this.#at < this.#list.length) {
      this.#begin(this.#list[this.#at]!);
      this.#leave();
    }
  }
}

/** A plan with its nodes in the order of the units: all groups of pictures pass a layer before any passes the next. */
export function inUnitOrder(plan: Plan, units: readonly Unit[]): Plan {
  const index = new Map(units.map((unit) => [unit.name, unit.index]));
  const levels: number[] = [];
  plan.forEach((node, i) => {
    const [first] = node.parameters.keys();
    const own = first === undefined ? undefined : index.get(unitName(first));
    levels[i] = Math.max(own ?? -1, ...node.inputs.map((j) => levels[j]!));
  });
  const order = plan.map((_, i) => i).sort((a, b) => levels[a]! - levels[b]! || a - b);
  const place = new Map(order.map((old, now) => [old, now]));
  return order.map((i) => ({ ...plan[i]!, inputs: plan[i]!.inputs.map((j) => place.get(j)!) }));
}
