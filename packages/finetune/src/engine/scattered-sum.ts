/**
 * Gradients of one optimizer step over several ranks. Each micro-batch's gradients of a unit go to their owners as soon as
 * the unit's backward pass is over, and are added there in the order of the ranks.
 *
 * Micro-batch k of rank r is part k · size + r of the step, so the sums are made in the order of the parts, each addition in float32 onto the
 * running sum: the bits are those of one rank that computes all parts (gradients.ts). Gradients of a table's rows go to the rows' owners.
 */
import { strict as assert } from 'node:assert';
import type { Plan, PlanNode } from '@minicpm-finetune/minicpm-v';
import { fromTypedArray, keep, noGrad, ops, type Pending, pieceOf, scope, type Tensor } from '@minicpm-finetune/torch';
import { type Sharding, shapeOf } from '../parallel/sharding.js';
import { piecesOf } from '../parallel/table-rows.js';
import { type Part, segmentsOf, type Unit } from '../parallel/units.js';
import { clipGradients, squaresOf } from './clip.js';
import { addRows, type GradientReceiver, type RowSum, Shared } from './gradients.js';
import { emptySum } from './loss.js';
import type { Optimizer, StepSettings } from './optimizer.js';

/** What a rank has of a part's gradient. */
interface Sum {
  /** (share) float32: of this rank's share, over all micro-batches so far. */
  readonly share: Tensor;
  /** Whether any gradient was a float32 sum over blocks. */
  wide: boolean;
}

export class ScatteredSum implements GradientReceiver {
  readonly does: GradientReceiver['does'] = 'sum';
  readonly #sharding: Sharding;
  readonly #shared = new Shared();
  /** Of the whole step, over all ranks. */
  readonly #parts: number;
  /** This micro-batch's gradients, by parameter, until their unit is scattered. */
  readonly #local = new Map<string, Tensor>();
  readonly #localRows = new Map<string, BigInt64Array>();
  readonly #sums = new Map<Part, Sum>();
  readonly #tables = new Map<Part, RowSum>();
  /** Scatters under way, with what they send. */
  #pending: { readonly pending: Pending; readonly whole: Tensor }[] = [];
  /** Made by `finish`. */
  readonly gradients = new Map<string, Tensor>();
  readonly rows = new Map<string, BigInt64Array>();

  /** @param parts micro-batches of the step that have something to learn, over all ranks */
  constructor(sharding: Sharding, parts: number) {
    this.#sharding = sharding;
    this.#parts = parts;
    sharding.gradientsGoTo = (unit, wide) => this.#scatter(unit, wide);
  }

  begin(plan: Plan, head: Iterable<string>): void {
    this.#shared.begin(plan, head);
  }

  add(incoming: ReadonlyMap<string, Tensor>, node: PlanNode | null): void {
    this.#take(this.#shared.take(incoming, node), node?.rows);
  }

  /** All units were scattered on the way; nothing is left but what had no place in the agreed order. */
  end(): void {
    assert.equal(this.#local.size, 0, `${[...this.#local.keys()].join(', ')} had no place in the agreed order`);
  }

  #take(complete: ReadonlyMap<string, Tensor>, rows?: BigInt64Array): void {
    for (const [name, gradient] of complete) {
      this.#local.set(name, gradient);
      if (rows) this.#localRows.set(name, rows);
    }
  }

  #scatter(unit: Unit, wide: boolean): void {
    this.#take(this.#shared.rest(unit.parts.flatMap(({ fields }) => fields.map(({ name }) => name))));
    noGrad(() => {
      for (const part of unit.parts) {
        if (!part.trains) continue;
        if (part.row === null) this.#scatterPart(part, wide);
        else this.#sendRows(part, part.row);
      }
    });
    this.scattered(unit);
  }

  /** A unit's gradients are on their way to their owners. */
  protected scattered(_unit: Unit): void {}

  #scatterPart(part: Part, wide: boolean): void {
    const { device } = part.fields[0]!.parameter.data;
    this.#settle(); // one message at a time: what it sends takes the memory of a unit
    const whole = scope(() => keep(this.#whole(part, wide, device)));
    let sum = this.#sums.get(part);
    if (sum === undefined) {
      sum = { share: scope(() => keep(ops.zeros([part.share], { dtype: 'float32', device }))), wide };
      this.#sums.set(part, sum);
    }
    sum.wide ||= wide;
    const pending = this.#sharding.group.scatterAdd(sum.share, whole, `gradients of ${part.label}`);
    this.#pending.push({ whole, pending });
    if (pending.done) this.#settle();
  }

  /** This micro-batch's gradient of a part, flat, in the parameters' type unless it is a sum over blocks on some rank; zeros without one. */
  #whole({ fields, share, dtype }: Part, wide: boolean, device: string): Tensor {
    const whole = ops.zeros([share * this.#sharding.group.size], { dtype: wide ? 'float32' : dtype, device });
    for (const { name, start, parameter } of fields) {
      const gradient = this.#local.get(name);
      if (gradient === undefined) continue;
      ops.copy_(pieceOf(whole, start, parameter.shape), gradient);
      gradient.dispose();
      this.#local.delete(name);
    }
    return whole;
  }

  #settle(): void {
    for (const { pending, whole } of this.#pending) {
      pending.wait();
      whole.dispose();
    }
    this.#pending = [];
  }

  /** Rows of a table's gradient go to the ranks that own them; to all, where the optimizer is whole on every rank. */
  #sendRows(part: Part, width: number): void {
    this.#settle();
    const { group, stage } = this.#sharding;
    const { name, parameter } = part.fields[0]!;
    const { device } = parameter.data;
    const gradient = this.#local.get(name);
    const rows = this.#localRows.get(name) ?? new BigInt64Array();
    this.#local.delete(name);
    this.#localRows.delete(name);
    const owned = part.share / width;
    const all = { from: 0, count: rows.length };
    const pieces = stage === 0 ? Array.from({ length: group.size }, () => all) : piecesOf(rows, owned, group.size);
    const label = `rows of ${part.label}`;
    const counts = group.exchange(
      pieces.map(({ count }) => count),
      `counts of ${label}`,
    );
    if (counts.every((own) => own.every((count) => count === 0))) return;
    scope(() => {
      const none = { dtype: 'float32', device } as const;
      const numbers = gradient ? ops.contiguous(ops.to(gradient, 'float32')) : ops.zeros([0, width], none);
      const ids = pieces.map(({ from, count }) => fromTypedArray(rows.slice(from, from + count), [count], 'int64'));
      const values = pieces.map(({ from, count }) => ops.narrow(numbers, 0, from, count));
      const incoming = counts.map((own) => own[group.rank]!);
      const theirIds = incoming.map((count) => ops.zeros([count], { dtype: 'int64' }));
      const theirs = incoming.map((count) => ops.zeros([count, width], none));
      const pending = [group.alltoall(ids, theirIds, `ids of ${label}`), group.alltoall(values, theirs, label)];
      for (const one of pending) one.wait();
      const offset = BigInt(stage === 0 ? 0 : group.rank * owned);
      const received = theirIds.map((own, r) => ({
        rows: (own.toTypedArray() as BigInt64Array).map((row) => row - offset),
        values: theirs[r]!,
      }));
      this.#addReceived(part, received, ops.zeros([0, width], none));
    });
    gradient?.dispose();
  }

  /** Adds what came, in the order of the ranks. A rank none of whose rows occur has a gradient of no rows: its moments decay like the others'. */
  #addReceived(part: Part, received: readonly RowSum[], none: Tensor): void {
    let sum = this.#tables.get(part) ?? { rows: new BigInt64Array(), values: keep(none) };
    for (const more of received) {
      if (more.rows.length === 0) continue;
      const next = addRows(sum, more);
      sum.values.dispose();
      sum = next;
    }
    this.#tables.set(part, sum);
  }

  /** The step's micro-batches are done: gradients of what this rank updates are there from now on. Collective. */
  finish(): void {
    this.collect(this.touched);
  }

  /** Makes gradients of what this rank has of these parts. Collective. */
  protected collect(parts: Iterable<Part>): void {
    this.#settle();
    noGrad(() => {
      for (const part of parts) {
        const sum = this.#sums.get(part);
        const table = this.#tables.get(part);
        if (sum !== undefined) this.#collectSum(part, sum);
        if (table !== undefined) this.#collectTable(part, table);
      }
    });
  }

  #collectSum(part: Part, { share, wide }: Sum): void {
    const narrow = this.#parts === 1 && !wide; // as on one rank: the sum of one is in the parameters' type
    for (const { name, gradient } of this.#cut(part, share))
      this.gradients.set(name, narrow ? this.#typed(gradient, part.dtype) : gradient);
    if (narrow) share.dispose(); // pieces that were taken as they are hold its memory
  }

  #collectTable(part: Part, { rows, values }: RowSum): void {
    const { name, parameter } = part.fields[0]!;
    this.gradients.set(name, keep(scope(() => ops.view(values, [rows.length, ...parameter.shape.slice(1)]))));
    this.rows.set(name, rows);
  }

  /** The gradients of segments as pieces of the sum; of whole parameters where the optimizer is whole. */
  #cut(part: Part, share: Tensor): { name: string; gradient: Tensor }[] {
    const { group, stage } = this.#sharding;
    if (stage !== 0)
      return segmentsOf(part, group.rank).map(({ segment, at }) => ({
        name: segment.name,
        gradient: keep(pieceOf(share, at, shapeOf(part, segment))),
      }));
    const whole = keep(ops.zeros([share.numel * group.size], { dtype: 'float32', device: share.device }));
    group.gather(whole, share, `sums of ${part.label}`).wait();
    const pieces = part.fields.map(({ name, start, parameter }) => ({
      name,
      gradient: keep(pieceOf(whole, start, parameter.shape)),
    }));
    whole.dispose(); // its pieces hold its memory
    return pieces;
  }

  #typed(gradient: Tensor, dtype: Part['dtype']): Tensor {
    if (dtype === 'float32') return gradient;
    const typed = keep(scope(() => ops.to(gradient, dtype)));
    gradient.dispose();
    return typed;
  }

  /** The parts of which this step has gradients: on every rank the same. */
  get touched(): Part[] {
    return [...this.#sums.keys(), ...this.#tables.keys()];
  }

  /** Frees gradients and sums. */
  protected clear(): void {
    for (const { share } of this.#sums.values()) share.dispose();
    for (const { values } of this.#tables.values()) values.dispose();
    for (const gradient of this.gradients.values()) gradient.dispose();
    for (const map of [this.#sums, this.#tables, this.gradients, this.rows]) map.clear();
  }

  dispose(): void {
    this.#shared.dispose();
    for (const { whole } of this.#pending) whole.dispose();
    for (const gradient of this.#local.values()) gradient.dispose();
    this.clear();
  }
}

/** What an update in the backward pass needs. */
export interface UpdateOptions {
  readonly optimizer: Optimizer;
  readonly settings: StepSettings;
  readonly maxGradNorm: number;
}

/** Updates each unit as soon as its gradients are with their owners: see `FusedUpdate`. */
export class ScatteredUpdate extends ScatteredSum {
  override readonly does = 'update';
  /** Squared norm over all gradients so far, of all ranks, before clipping. */
  readonly squares: Tensor;
  readonly #sharding: Sharding;
  readonly #options: UpdateOptions;

  constructor(sharding: Sharding, parts: number, options: UpdateOptions) {
    super(sharding, parts);
    this.#sharding = sharding;
    this.#options = options;
    const { device } = sharding.units[0]!.parts[0]!.fields[0]!.parameter.data;
    this.squares = scope(() => keep(emptySum(device)));
  }

  protected override scattered(unit: Unit): void {
    const { group, stage } = this.#sharding;
    const { optimizer, settings, maxGradNorm } = this.#options;
    const touched = this.touched;
    if (touched.length === 0) return;
    this.collect(touched);
    const own = this.gradients.size === 0 ? 0 : scope(() => squaresOf(this.gradients).item());
    const squares = stage === 0 ? own : group.sum([own], `norm of ${unit.name}`)[0]!;
    const total = noGrad(() => scope(() => ops.addScalar_(this.squares, squares).item()));
    if (Number.isFinite(total)) {
      clipGradients(this.gradients, Math.sqrt(squares), maxGradNorm); // in float64, as `FusedUpdate` has it
      optimizer.step(this.gradients, { ...settings, rows: this.rows });
      this.#sharding.spread(touched);
    }
    this.clear();
  }

  override dispose(): void {
    this.squares.dispose();
    super.dispose();
  }
}
