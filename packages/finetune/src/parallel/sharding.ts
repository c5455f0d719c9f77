/**
 * A model shared out over ranks. Which of its buffers every rank keeps whole, which come and go, and when shares travel.
 *
 *     stage   weights                              gradients   optimizer
 *     0       whole                                whole       whole on every rank
 *     1, 2    whole; gathered after each update    own share   own share
 *     3       own share; gathered for each visit   own share   own share
 *
 * Gradients are added to their owner's sum after every micro-batch under each stage: so their sum has the bits that one process gets, and a
 * rank never holds more than one unit's whole gradient. Stage 1 (which would hold them all until the last micro-batch) is the same as stage 2.
 *
 * Weights that are pages of a checkpoint file stay: all processes of a machine share them. Weights in a compact form (QLoRA) come and go as
 * bytes, and are expanded in the visit. A token table that is not the head is not gathered: owners send rows (table-rows.ts). With offloaded weights
 * (offload.ts) a share is in host memory or in a file, and comes to the device from there; that is so for one rank as well.
 *
 * Not here: units (units.ts), the order of visits (passage.ts), sums of gradients (engine/scattered-sum.ts).
 */
import { strict as assert } from 'node:assert';
import type { MiniCPMV } from '@minicpm-finetune/minicpm-v';
import {
  alias,
  DTYPES,
  dropStorage,
  fillStorage,
  type Group,
  keep,
  noGrad,
  ops,
  ownsStorage,
  type Parameter,
  type Pending,
  pieceOf,
  scope,
  type Tensor,
} from '@minicpm-finetune/torch';
import { HOST_MEMORY, type Offload, type StatePlace } from './offload.js';
import type { Pass, Visitor } from './passage.js';
import { numbersOf, type Segment, type Shard } from './segment.js';
import { fetchRows } from './table-rows.js';
import { type Field, type Part, placesOf, SMALL_UNIT, segmentsOf, type Unit, unitsOf } from './units.js';

export type Stage = 0 | 2 | 3;

const NO_ROWS = new BigInt64Array();

/** The stage that a setting means; null: the process is alone and has all. `offloaded`: weights are not on the device, but come to it. */
export function stageOf(
  setting: '0' | '1' | '2' | '3' | 'auto',
  { size, lora, offloaded = false }: { readonly size: number; readonly lora: boolean; readonly offloaded?: boolean },
): Stage | null {
  if (offloaded) return 3;
  if (size === 1) return null;
  if (setting === 'auto') return lora ? 2 : 3;
  return setting === '0' ? 0 : setting === '3' ? 3 : 2;
}

export interface ShardingOptions {
  readonly group: Group;
  readonly stage: Stage;
  readonly trainable: ReadonlyMap<string, Parameter>;
  /** Parameters that stay whole on every rank whatever the stage: what others read outside of passes. */
  readonly keepsWhole?: (name: string) => boolean;
  /** Told where this process is, such as `forward pass of llm.model.layers.4`. */
  readonly at?: (where: string) => void;
  /** Units of fewer bytes stay whole. */
  readonly smallUnit?: number;
  /** Where shares of weights that come and go are; null: on the device. */
  readonly offload?: Offload | null;
}

/** The buffers of a part that trains, or that comes and goes. */
interface Buffers {
  /** (share · size): all numbers; without memory between visits where `comes`. */
  readonly whole: Tensor;
  /** (share): the place of this rank's in `whole`. */
  readonly own: Tensor;
  /** (share): this rank's, where it is kept; `own` where `whole` stays. */
  readonly share: Tensor;
  readonly comes: boolean;
}

export class Sharding implements Visitor {
  readonly group: Group;
  readonly stage: Stage;
  readonly units: readonly Unit[];
  /** Names of the head's parameters. */
  readonly head: readonly string[];
  readonly #buffers = new Map<Part, Buffers>();
  /** What this rank keeps of weights that come and go. */
  readonly #held = new Map<Tensor, Shard | null>();
  /** Gathers under way. */
  readonly #coming = new Map<Part, Pending>();
  /** Parts that have their memory now, of those that come and go. */
  readonly #here = new Set<Part>();
  /** In the visit of a token table. */
  #fetched: Tensor | undefined;
  /** Pieces of shares that were given away. */
  readonly #lent: Tensor[] = [];
  readonly #at: (where: string) => void;
  readonly #offload: Offload | null;
  #takeGradients: (unit: Unit, wide: boolean) => void = () => {};

  /** Moves parameters into flat buffers, and from stage 3 on gives back the memory of what other ranks keep. */
  constructor(model: MiniCPMV, options: ShardingOptions) {
    const { group, stage, trainable, keepsWhole, at = () => {}, smallUnit = SMALL_UNIT, offload = null } = options;
    this.#at = at;
    this.#offload = offload;
    this.group = group;
    this.stage = stage;
    this.head = [...model.headParameters().keys()];
    const embedding = `${model.llm.tableName}.weight`;
    const tables = new Set(this.head.includes(embedding) ? [] : [embedding]);
    this.units = unitsOf(model, { size: group.size, trainable: new Set(trainable.keys()), tables });
    for (const unit of this.units) {
      const bytes = unit.parts.reduce((sum, part) => sum + bytesOf(part), 0);
      for (const part of unit.parts) {
        const whole = stage < 3 || bytes < smallUnit || part.fields.some(({ name }) => keepsWhole?.(name));
        if (part.trains ? stage === 0 : whole || this.#stays(part)) {
          if (offload !== null) this.#moveWhole(part, offload);
          continue;
        }
        const own = whole || offload === null ? this.#flatten(part, !whole) : this.#putAside(part, offload);
        this.#buffers.set(part, own);
        if (own.comes) this.#hold(part, own);
      }
    }
  }

  /** What of each trained parameter this rank updates. The tensors are the parameters' or this sharding's own. */
  get shards(): ReadonlyMap<string, Shard> {
    const shards = new Map<string, Shard>();
    for (const part of this.units.flatMap(({ parts }) => parts)) {
      if (!part.trains) continue;
      const own = this.#buffers.get(part);
      if (own === undefined) {
        for (const { name, parameter, length } of part.fields)
          shards.set(name, {
            segment: { name, shape: parameter.shape, start: 0, length },
            data: parameter.data,
          });
        continue;
      }
      for (const { segment, at } of segmentsOf(part, this.group.rank))
        shards.set(segment.name, { segment, data: this.#lend(pieceOf(own.share, at, shapeOf(part, segment))) });
    }
    return shards;
  }

  /** A piece of a share, which lives as long as this. */
  #lend(piece: Tensor): Tensor {
    this.#lent.push(keep(piece));
    return piece;
  }

  /** Who takes the gradients of a unit when its backward pass is over. */
  set gradientsGoTo(take: (unit: Unit, wide: boolean) => void) {
    this.#takeGradients = take;
  }

  gradients(unit: Unit, wide: boolean): void {
    this.#takeGradients(unit, wide);
  }

  /** Whether passes without gradients need the ranks to walk together. */
  get gathers(): boolean {
    return [...this.#buffers.values()].some(({ comes }) => comes);
  }

  begin(unit: Unit, next: Unit | undefined, pass: Pass, rows: BigInt64Array = NO_ROWS): void {
    this.#at(`${pass} pass of ${unit.name}`);
    this.#gather(unit);
    this.#arrive(unit);
    for (const part of unit.parts) if (pass === 'forward') this.#fetch(part, rows);
    if (next === undefined) return;
    if (this.#place.folder === null) this.#gather(next);
    else this.#place.ahead(this.#lacking(next).map(([, { share }]) => share)); // the disk reads it meanwhile
  }

  /** Whether no rank has the whole token table: the rows that it reads come in the visit. */
  get sharesTable(): boolean {
    return [...this.#buffers].some(([{ row }, { comes }]) => row !== null && comes);
  }

  /** The rows (R, width) that the visit of the token table asked for. */
  get fetchedRows(): Tensor {
    assert.ok(this.#fetched, 'rows are read in the visit of their table');
    return alias(this.#fetched);
  }

  /** Gets rows of a token table; a backward pass reads none, since the gradient is of rows. */
  #fetch(part: Part, rows: BigInt64Array): void {
    const own = this.#buffers.get(part);
    if (part.row === null || own === undefined || !own.comes) return;
    const { device } = own.whole;
    const table = { group: this.group, share: own.share, width: part.row, device, label: `rows of ${part.label}` };
    this.#fetched = fetchRows(table, rows);
    this.#place.behind([own.share]);
  }

  #arrive(unit: Unit): void {
    for (const part of unit.parts) {
      this.#coming.get(part)?.wait();
      this.#coming.delete(part);
    }
  }

  end(unit: Unit): void {
    if (unit.parts.some(({ row }) => row !== null)) {
      this.#fetched?.dispose();
      this.#fetched = undefined;
    }
    for (const part of unit.parts) {
      if (!this.#here.delete(part)) continue;
      const { whole, share } = this.#buffers.get(part)!;
      dropStorage(whole);
      this.#place.behind([share]);
    }
  }

  get #place(): StatePlace {
    return this.#offload?.place ?? HOST_MEMORY;
  }

  /** What a unit lacks. `tables`: whole token tables too. */
  #lacking(unit: Unit, tables = false): [Part, Buffers][] {
    return unit.parts.flatMap((part): [Part, Buffers][] => {
      const own = this.#buffers.get(part);
      return own?.comes && !this.#here.has(part) && (part.row === null || tables) ? [[part, own]] : [];
    });
  }

  /** Asks for what a unit lacks. `tables`: for whole token tables too. */
  #gather(unit: Unit, tables = false): void {
    for (const [part, { whole, own, share }] of this.#lacking(unit, tables)) {
      fillStorage(whole);
      this.#here.add(part);
      this.#offload?.transfer.toDevice(own, share);
      this.#coming.set(part, this.group.gather(whole, this.#offload ? own : share, `weights of ${part.label}`));
    }
  }

  /** After an update: gathers the weights of these parts where they stay whole. Collective. */
  spread(updated: Iterable<Part>): void {
    const pending: Pending[] = [];
    for (const part of updated) {
      const own = this.#buffers.get(part);
      if (own !== undefined && !own.comes)
        pending.push(this.group.gather(own.whole, own.share, `weights of ${part.label}`));
    }
    for (const one of pending) one.wait();
  }

  /** Runs `fn` with all weights whole on every rank: for what is no pass. Takes the memory of the whole model. Collective. */
  async withAllWeights<T>(fn: () => Promise<T>): Promise<T> {
    for (const unit of this.units) {
      this.#gather(unit, true);
      this.#arrive(unit);
    }
    try {
      return await fn();
    } finally {
      for (const unit of this.units) this.end(unit);
    }
  }

  /** What this rank keeps of a weight of which no rank keeps all: null: nothing; undefined: every rank keeps all of it. */
  heldOf(weight: Tensor): Shard | null | undefined {
    return this.#held.get(weight);
  }

  dispose(): void {
    for (const piece of this.#lent) piece.dispose();
    for (const { whole, own, share } of this.#buffers.values())
      for (const tensor of [whole, own, share]) tensor.dispose();
    this.#buffers.clear();
  }

  #hold(part: Part, { share }: Buffers): void {
    if (part.fields[0]!.parameter.compact !== undefined) return; // no file has compact forms
    for (const { parameter } of part.fields) this.#held.set(parameter.data, null);
    for (const { segment, at } of segmentsOf(part, this.group.rank)) {
      const { parameter } = part.fields.find(({ name }) => name === segment.name)!;
      this.#held.set(parameter.data, { segment, data: this.#lend(pieceOf(share, at, [segment.length])) });
    }
  }

  /** Whether frozen weights stay as they are: as pages of a file, which all processes of a machine share. Not where a device wants them. */
  #stays(part: Part): boolean {
    return this.#deviceOf(part) === 'cpu' && part.fields.some(({ parameter }) => isMapped(parameter));
  }

  #deviceOf(part: Part): string {
    return this.#offload?.transfer.device ?? deviceOf(part);
  }

  /** Brings parameters that every rank keeps to the device, if they are not there. */
  #moveWhole({ fields }: Part, { transfer: { device } }: Offload): void {
    for (const { parameter } of fields) moveParameter(parameter, device);
  }

  /** Moves parameters into a flat buffer, which has its memory in visits alone where `comes`. */
  #flatten(part: Part, comes: boolean): Buffers {
    const { rank, size } = this.group;
    return noGrad(() =>
      scope(() => {
        const whole = keep(ops.zeros([part.share * size], { dtype: part.dtype, device: this.#deviceOf(part) }));
        for (const field of part.fields) moveInto(whole, field, part.trains);
        const own = keep(pieceOf(whole, rank * part.share, [part.share]));
        const share = comes ? keep(ops.clone(own)) : own;
        if (comes) dropStorage(whole);
        return { whole, own, share, comes };
      }),
    );
  }

  /** The same for parameters that are not on the device: their share goes where it is kept, and nothing to the device. */
  #putAside(part: Part, { place }: Offload): Buffers {
    const { rank, size } = this.group;
    return noGrad(() =>
      scope(() => {
        const share = place.zeros([part.share], part.dtype);
        const parameters = new Map(part.fields.map(({ name, parameter }) => [name, parameter]));
        for (const { segment, at } of segmentsOf(part, rank)) {
          const numbers = ops.reshape(ops.detach(parameters.get(segment.name)!.data), [-1]);
          ops.copy_(pieceOf(share, at, [segment.length]), ops.narrow(numbers, 0, segment.start, segment.length));
        }
        place.behind([share]);
        const whole = keep(ops.empty([part.share * size], { dtype: part.dtype, device: this.#deviceOf(part) }));
        for (const { parameter, start } of part.fields) {
          parameter.data = keep(pieceOf(whole, start, parameter.shape));
          if (part.trains) parameter.data.requiresGrad = true;
        }
        const own = keep(pieceOf(whole, rank * part.share, [part.share]));
        dropStorage(whole);
        return { whole, own, share, comes: true };
      }),
    );
  }
}

/** The shape of a segment's tensors: see `Shard`. */
export function shapeOf({ row }: Part, { shape, length }: Segment): readonly number[] {
  if (length === numbersOf(shape)) return shape;
  return row === null ? [length] : [length / row, ...shape.slice(1)];
}

const bytesOf = ({ fields, dtype }: Part): number =>
  fields.reduce((sum, { length }) => sum + length, 0) * DTYPES[dtype].bytes;

/** Brings a parameter to a device; one that trains continues to. */
function moveParameter(parameter: Parameter, device: string): void {
  const { data, requiresGrad } = parameter;
  if (data.device.split(':')[0] === device.split(':')[0]) return;
  parameter.data = noGrad(() => scope(() => keep(ops.toDevice(data, device, data.dtype))));
  parameter.data.requiresGrad = requiresGrad;
}

/** Whether a parameter's memory is pages of a file. */
const isMapped = (parameter: Parameter): boolean => parameter.compact === undefined && !ownsStorage(parameter.data);

function deviceOf({ fields }: Part): string {
  const { parameter } = fields[0]!;
  return (parameter.compact?.tensors[0] ?? parameter.data).device;
}

/** Moves a parameter to its place in a buffer. */
function moveInto(whole: Tensor, { parameter, start }: Field, trains: boolean): void {
  const { compact } = parameter;
  if (compact === undefined) {
    const piece = pieceOf(whole, start, parameter.shape);
    ops.copy_(piece, ops.detach(parameter.data));
    parameter.data = keep(piece);
    if (trains) piece.requiresGrad = true;
    return;
  }
  const { starts } = placesOf(compact.tensors);
  const moved = compact.tensors.map((tensor, i) => {
    const bytes = pieceOf(whole, start + starts[i]!, [tensor.nbytes]);
    const piece = ops.view(ops.viewDtype(bytes, tensor.dtype), tensor.shape);
    ops.copy_(piece, tensor);
    return keep(piece);
  });
  compact.replace(moved);
}
