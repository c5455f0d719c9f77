/**
 * Units: the pieces in which ranks share a model out. A unit is what one block of a plan reads: a layer, the resampler,
 * the token table, the head. Its parameters lie in flat buffers, one for each element type and for what trains and what
 * does not, and each rank has an equal share of every buffer (ZeRO; Rajbhandari et al., 2020).
 *
 * A parameter begins at a multiple of 64 numbers and a share is a multiple of 64: vectors of a kernel then cover the same numbers for any
 * number of ranks, and results have the same bits. A token table is shared out by rows. Not here: when buffers travel (sharding.ts).
 */
import { partNamed, partOf } from '@minicpm-finetune/processor';
import type { Module, Parameter, Tensor } from '@minicpm-finetune/torch';
import { numbersOf, type Segment } from './segment.js';

const ALIGNMENT = 64;
/** Units with less than this stay whole on every rank, under any stage: their collectives would cost more than their memory. */
export const SMALL_UNIT = 1 << 20;

/** A parameter's place in a flat buffer, in numbers; in bytes where the parameter is in a compact form. */
export interface Field {
  readonly name: string;
  readonly parameter: Parameter;
  readonly start: number;
  readonly length: number;
}

/** Parameters of a unit that have an element type in common, and that all train or are all frozen. */
export interface Part {
  readonly label: string;
  readonly fields: readonly Field[];
  readonly trains: boolean;
  readonly dtype: Tensor['dtype'];
  /** Numbers of one rank's share. */
  readonly share: number;
  /** Numbers of a row, where the part is a token table that is read, and has gradients, by rows; null: it is no such table. */
  readonly row: number | null;
}

export interface Unit {
  readonly name: string;
  /** In the order in which a forward pass visits units. */
  readonly index: number;
  readonly parts: readonly Part[];
}

/** The unit that a parameter belongs to, by its name: as plan nodes read them together. */
export function unitName(name: string): string {
  const layer = /^(.*?\.(?:layers|blocks)\.\d+)\./.exec(name)?.[1];
  if (layer !== undefined) return layer;
  const found = partNamed(name);
  if (found === undefined) return /^((?:.*\.)?(?:lm_head|embed_tokens|norm))\./.exec(name)?.[1] ?? name;
  const { part, path } = found;
  if (part === 'connector') return path;
  const inside = /^(norm|post_layernorm|vit_merger)\./.exec(name.slice(path.length + 1))?.[1] ?? 'embeddings';
  return `${path}.${inside === 'post_layernorm' ? 'norm' : inside}`;
}

/** In the order of a forward pass: the tower, the connector, the token table, layers, the norm, the head. */
function stageOf(unit: string): number {
  const part = partOf(unit);
  if (part !== 'vision') return part === 'connector' ? 3 : 4;
  return unit.endsWith('.embeddings') ? 0 : unit.endsWith('.norm') ? 2 : 1;
}

/** Names of units as a forward pass visits them, from their order in the model. */
export function inVisitOrder(units: Iterable<string>): string[] {
  const order = [...units].map((name, i) => ({ name, i }));
  return order.sort((a, b) => stageOf(a.name) - stageOf(b.name) || a.i - b.i).map(({ name }) => name);
}

export interface UnitOptions {
  readonly size: number;
  /** Parameters that train. */
  readonly trainable: ReadonlySet<string>;
  /** Token tables that are read by rows. */
  readonly tables: ReadonlySet<string>;
}

/** The units of a model that is loaded, in the order in which a forward pass visits them. Compact forms are parts of bytes. */
export function unitsOf(model: Module, { size, trainable, tables }: UnitOptions): Unit[] {
  const byUnit = new Map<string, [string, Parameter][]>();
  for (const [name, parameter] of model.namedParameters()) {
    const unit = unitName(name);
    byUnit.set(unit, [...(byUnit.get(unit) ?? []), [name, parameter]]);
  }
  return inVisitOrder(byUnit.keys()).map((name, index) => ({ name, index, parts: partsOf(name, byUnit.get(name)!) }));

  function partsOf(unit: string, parameters: readonly [string, Parameter][]): Part[] {
    const byKind = new Map<string, [string, Parameter][]>();
    for (const [name, parameter] of parameters) {
      const kind = `${dtypeOf(parameter)} ${trainable.has(name) ? 'trained' : 'frozen'}`;
      byKind.set(kind, [...(byKind.get(kind) ?? []), [name, parameter]]);
    }
    return [...byKind].map(([kind, own]) => {
      const [name, first] = own[0]!;
      const row = own.length === 1 && tables.has(name) ? numbersOf(first.shape.slice(1)) : null;
      const label = `${unit}, ${kind}`;
      const fields = place(own);
      const end = fields.at(-1)!.start + fields.at(-1)!.length;
      const share = row === null ? shareOf(end, size) : Math.ceil(end / row / size) * row;
      return { label, fields, trains: trainable.has(name), dtype: dtypeOf(first), share, row };
    });
  }
}

/** Numbers of one rank's share of so many. */
export const shareOf = (numbers: number, size: number): number => up(Math.ceil(numbers / size), ALIGNMENT);

const up = (count: number, multiple: number): number => Math.ceil(count / multiple) * multiple;

/** Of what is kept of a parameter: bytes of its compact form, where it has one. */
const dtypeOf = (parameter: Parameter): Tensor['dtype'] =>
  parameter.compact === undefined ? parameter.data.dtype : 'uint8';

/** Where each tensor of a compact form begins in its field, and where the last one ends, in bytes. */
export function placesOf(tensors: readonly Pick<Tensor, 'nbytes'>[]): { starts: number[]; end: number } {
  let end = 0;
  const starts = tensors.map(({ nbytes }) => {
    const start = up(end, ALIGNMENT);
    end = start + nbytes;
    return start;
  });
  return { starts, end };
}

function place(parameters: readonly [string, Parameter][]): Field[] {
  let end = 0;
  return parameters.map(([name, parameter]) => {
    const start = up(end, ALIGNMENT);
    const { compact, shape } = parameter;
    const length = compact === undefined ? numbersOf(shape) : placesOf(compact.tensors).end;
    end = start + length;
    return { name, parameter, start, length };
  });
}

/** What of a part's parameters is in a rank's share: the segments, and where each begins in the share. */
export function segmentsOf({ fields, share }: Part, rank: number): { segment: Segment; at: number }[] {
  const [from, to] = [rank * share, (rank + 1) * share];
  return fields.flatMap(({ name, parameter: { shape }, start, length }) => {
    const [a, b] = [Math.max(start, from), Math.min(start + length, to)];
    return a < b ? [{ segment: { name, shape, start: a - start, length: b - a }, at: a - from }] : [];
  });
}
