/**
 * `optimizer.safetensors`, written and read by ranges. It has all parameters whole, however many ranks share them.
 *
 *     exp_avg.NAME, exp_avg_sq.NAME   moments, in the parameter's shape, or of some of its rows
 *     rows.NAME                       those rows, ascending; absent: all
 *     step.NAME                       steps it has seen
 *     master.NAME                     float32 weights
 *
 * A rank writes and reads what it updates. So a run resumes on any number of ranks.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import {
  type AdamWState,
  copyTo,
  DTYPES,
  type DType,
  fromTypedArray,
  keep,
  noGrad,
  ops,
  scope,
  type Tensor,
  type TensorKind,
} from '@minicpm-finetune/torch';
import type { Optimizer } from '../engine/optimizer.js';
import { exchangeLists, fromFirst } from '../parallel/agree.js';
import type { Ranks } from '../parallel/ranks.js';
import { numbersOf, type Segment } from '../parallel/segment.js';
import { type HeldTensor, heldElsewhere, heldRange } from './held.js';
import { openFolder } from './shared-folder.js';
import { type RangeSource, readTogether } from './streaming.js';

export const OPTIMIZER_FILE = 'optimizer.safetensors';

/** What of an optimizer the file has, and is read into. */
interface OptimizerState extends Pick<Optimizer, 'parameters' | 'masters' | 'segments'> {
  readonly adamw: Pick<Optimizer['adamw'], 'state' | 'groups' | 'zeros'>;
}

/** What a rank has of a parameter. */
interface Share {
  readonly start: number;
  /** Null: no moments yet. */
  readonly dtype: DType | null;
  /** How many rows have moments; null: all. */
  readonly rows: number | null;
  readonly master: boolean;
}

const CODES = new Map(Object.entries(DTYPES).map(([dtype, { code }]) => [code, dtype as DType]));
const NUMBERS = 4;

/** What every rank has of every parameter, by name and rank. Collective. */
function sharesOf(
  optimizer: OptimizerState,
  segments: ReadonlyMap<string, Segment>,
  { group }: Ranks,
): Map<string, Share[]> {
  const own = [...optimizer.parameters.keys()].flatMap((name) => {
    const [segment, state] = [segments.get(name), optimizer.adamw.state.get(name)];
    if (segment === undefined) return [0, -1, -1, 0];
    const dtype = state ? DTYPES[state.expAvg.dtype].code : -1;
    return [segment.start, dtype, state?.rows?.length ?? -1, optimizer.masters.has(name) ? 1 : 0];
  });
  const lists = exchangeLists(group, own, 'states of the optimizer');
  return new Map(
    [...optimizer.parameters.keys()].map((name, i) => [
      name,
      lists.map((list) => {
        const [start, code, rows, master] = list.subarray(NUMBERS * i, NUMBERS * (i + 1));
        return { start: start!, dtype: CODES.get(code!) ?? null, rows: rows! < 0 ? null : rows!, master: master === 1 };
      }),
    ]),
  );
}

/** The tensors of the file, the same on all ranks; in the caller's scope. Collective. */
export function optimizerTensors(optimizer: OptimizerState, ranks: Ranks): Map<string, HeldTensor> {
  const { segments } = optimizer;
  const tensors = new Map<string, HeldTensor>();
  for (const [name, shares] of sharesOf(optimizer, segments, ranks)) {
    const { shape } = optimizer.parameters.get(name)!;
    const [segment, state, master] = [segments.get(name), optimizer.adamw.state.get(name), optimizer.masters.get(name)];
    const held = (kind: TensorKind, start: number, numbers: Tensor | undefined): HeldTensor =>
      segment && numbers ? heldRange(kind.shape, start, numbers) : heldElsewhere(kind);
    if (shares.some((share) => share.master))
      tensors.set(`master.${name}`, held({ dtype: 'float32', shape }, segment?.start ?? 0, master));
    const dtype = shares.find((share) => share.dtype !== null)?.dtype;
    if (!dtype) continue;
    tensors.set(`step.${name}`, held({ dtype: 'float32', shape: [] }, 0, state?.step));
    const moments = new Map([
      ['exp_avg', state?.expAvg],
      ['exp_avg_sq', state?.expAvgSq],
    ]);
    if (shares.every(({ rows }) => rows === null)) {
      for (const [kind, moment] of moments)
        tensors.set(`${kind}.${name}`, held({ dtype, shape }, segment?.start ?? 0, moment));
    } else
      for (const [part, tensor] of rowTensors({ shape, dtype, shares, segment, state }))
        tensors.set(`${part}.${name}`, tensor);
  }
  return tensors;
}

interface Table {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly shares: readonly Share[];
  readonly segment: Segment | undefined;
  readonly state: AdamWState | undefined;
}

/** Moments of some rows of a table, in the order of the rows: in memory they are in the order in which the rows came. */
function rowTensors({ shape, dtype, shares, segment, state }: Table): Map<string, HeldTensor> {
  if (shares.some((share) => share.dtype !== null && share.rows === null))
    throw new Error(
      'Expected moments of rows on every rank that has moments of a table but one has them of all numbers',
    );
  const row = numbersOf(shape.slice(1));
  const counts = new Map(shares.flatMap(({ start, rows }) => (rows === null ? [] : [[start, rows] as const])));
  let [total, before] = [0, 0];
  for (const [start, count] of counts) {
    total += count;
    if (segment && start < segment.start) before += count;
  }
  const kinds = {
    rows: { dtype: 'int64', shape: [total] },
    moments: { dtype, shape: [total, ...shape.slice(1)] },
  } as const;
  if (!segment || !state?.rows)
    return new Map([
      ['rows', heldElsewhere(kinds.rows)],
      ['exp_avg', heldElsewhere(kinds.moments)],
      ['exp_avg_sq', heldElsewhere(kinds.moments)],
    ]);
  const { rows } = state;
  const first = BigInt(segment.start / row);
  const order = Array.from(rows.keys()).sort((a, b) => (rows[a]! < rows[b]! ? -1 : 1));
  const sorted = fromTypedArray(
    BigInt64Array.from(order, (place) => rows[place]! + first),
    [rows.length],
  );
  const moment = (numbers: Tensor): HeldTensor =>
    inOrder(heldRange(kinds.moments.shape, before * row, numbers), numbers, order);
  return new Map([
    ['rows', heldRange([total], before, sorted)],
    ['exp_avg', moment(state.expAvg)],
    ['exp_avg_sq', moment(state.expAvgSq)],
  ]);
}

/** The same with its rows in another order: they are put in it piece by piece, when they are read. */
function inOrder(held: HeldTensor, rows: Tensor, order: readonly number[]): HeldTensor {
  if (order.every((place, i) => place === i)) return held;
  const row = numbersOf(rows.shape.slice(1));
  const read = (start: number, length: number): Tensor => {
    const from = start - held.start;
    const first = Math.floor(from / row);
    const places = BigInt64Array.from(order.slice(first, Math.ceil((from + length) / row)), BigInt);
    const picked = ops.indexSelect(rows, 0, fromTypedArray(places, [places.length], 'int64', rows.device));
    return ops.narrow(ops.reshape(picked, [-1]), 0, from - first * row, length);
  };
  return { ...held, read };
}

/** Restores moments, steps and masters of what this rank updates. Collective. */
export function restoreOptimizer(folder: string, optimizer: OptimizerState, ranks: Ranks): void {
  const path = join(folder, OPTIMIZER_FILE);
  fromFirst(ranks, OPTIMIZER_FILE, () => {
    if (existsSync(path)) return;
    throw new UserError(`Expected ${OPTIMIZER_FILE} in the checkpoint but it is not there.`, {
      file: folder,
      flag: '--resume_from_checkpoint',
      cure: 'It was saved with --save_only_model: start a new run from its weights instead.',
    });
  });
  noGrad(() =>
    scope(() =>
      readTogether(openFolder(folder, ranks, OPTIMIZER_FILE), OPTIMIZER_FILE, (file) => {
        for (const segment of optimizer.segments.values()) scope(() => restore(file, segment, optimizer));
      }),
    ),
  );
}

function restore(file: RangeSource, { name, shape, start, length }: Segment, { adamw, masters }: OptimizerState): void {
  const master = masters.get(name);
  if (master && file.infos.has(`master.${name}`))
    ops.copy_(master, ops.reshape(file.range(`master.${name}`, start, length), master.shape));
  if (!file.infos.has(`exp_avg.${name}`)) return;
  const updated = adamw.groups.map(({ params }) => params.get(name)).find((tensor) => tensor !== undefined)!;
  const own = (tensor: Tensor, ownShape: readonly number[]): Tensor => {
    const moment = adamw.zeros(ownShape, updated);
    ops.copy_(moment, ops.reshape(tensor, ownShape));
    return moment;
  };
  const step = keep(copyTo(ops.clone(ops.reshape(file.range(`step.${name}`, 0, 1), [])), updated.device));
  const count = file.infos.get(`rows.${name}`)?.shape[0];
  if (count === undefined) {
    const [expAvg, expAvgSq] = ['exp_avg', 'exp_avg_sq'].map((kind) =>
      own(file.range(`${kind}.${name}`, start, length), updated.shape),
    );
    adamw.state.set(name, { expAvg: expAvg!, expAvgSq: expAvgSq!, step });
    return;
  }
  const row = numbersOf(shape.slice(1));
  if (numbersOf(updated.shape.slice(1)) !== row)
    throw new Error(
      `Expected whole rows of ${name}, of which the checkpoint has moments by rows, but this rank updates [${updated.shape.join(', ')}]`,
    );
  const [first, last] = [BigInt(start / row), BigInt((start + length) / row)];
  const all = file.range(`rows.${name}`, 0, count).toTypedArray() as BigInt64Array;
  const places = Array.from(all.keys()).filter((place) => all[place]! >= first && all[place]! < last);
  const runs = runsOf(places);
  const [expAvg, expAvgSq] = ['exp_avg', 'exp_avg_sq'].map((kind) => {
    const parts = runs.map((run) => file.range(`${kind}.${name}`, run.start * row, run.length * row));
    return own(parts.length === 1 ? parts[0]! : ops.cat([...parts, file.range(`${kind}.${name}`, 0, 0)]), [
      places.length,
      ...shape.slice(1),
    ]);
  });
  const rows = BigInt64Array.from(places, (place) => all[place]! - first);
  adamw.state.set(name, { expAvg: expAvg!, expAvgSq: expAvgSq!, step, rows });
}

/** Numbers as runs of neighbours. */
function runsOf(places: readonly number[]): { start: number; length: number }[] {
  const runs: { start: number; length: number }[] = [];
  for (const place of places) {
    const last = runs.at(-1);
    if (last && last.start + last.length === place) last.length++;
    else runs.push({ start: place, length: 1 });
  }
  return runs;
}
